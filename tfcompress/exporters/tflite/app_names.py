"""Names and remarks of generated Kotlin and Swift: of classes, and of tensors."""

from __future__ import annotations

import math
import re

from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.tensors import TensorInfo

_WORDS = """
    actor any as associatedtype async await break case catch class continue data
    default defer deinit do dynamic else enum extension fallthrough false
    fileprivate final for fun func get guard if import in indirect infix init inout
    interface internal is lazy let mutating nil nonmutating null object open
    operator optional override package precedencegroup private protocol public
    repeat required rethrows return self set some static struct subscript super
    switch this throw throws true try type typealias typeof unowned val var weak
    when where while
"""
#: Words that are no names in one of the languages.
RESERVED = frozenset(_WORDS.split())
# What the generated functions call by its plain name. Their own variables have an
# underscore in their names, which those of tensors never have.
_FUNCTIONS = """
    arrayof buffer close interpreter mapof precondition require run values
"""
_CALLED = frozenset(_FUNCTIONS.split())
# Types that a class of the same name would hide.
_HIDDEN = """
    Any Array AutoCloseable Bool Boolean Byte ByteArray ByteBuffer ByteOrder Char
    Class CoreML Data Double Error Float Float16 Float32 FloatArray Foundation Int Int32
    Int8 MLComputeUnits MLDictionaryFeatureProvider MLFeatureProvider MLModel
    MLModelConfiguration MLMultiArray MLShapedArray MLShapedArrayScalar URL
    IntArray Interpreter List Map Never Nothing Number Object Optional Options
    Outputs Protocol Self Set String TensorFlowLite Type UInt8 Unit Void
"""
_TYPES = frozenset(_HIDDEN.split())


def class_name(stem: str) -> str:
    """Returns the name of the class for a file."""
    words = re.findall(r"[A-Za-z0-9]+", stem)
    name = "".join(word[0].upper() + word[1:] for word in words)
    return f"Model{name}" if not name or name[0].isdigit() or name in _TYPES else name


def identifiers(tensors: tuple[TensorInfo, ...]) -> list[str]:
    """Returns a name for each tensor: of letters and digits, and all different."""
    names: list[str] = []
    for position, info in enumerate(tensors):
        words = re.findall(r"[A-Za-z0-9]+", info.name)
        name = "".join(word.capitalize() for word in words) or f"Tensor{position}"
        name = f"tensor{name}" if name[0].isdigit() else name[0].lower() + name[1:]
        if name.lower() in RESERVED | _CALLED:
            name = f"{name}Tensor"
        found, number = name, position
        while found in names:
            found, number = f"{name}{number}", number + 1
        names.append(found)
    return names


def plain(text: str) -> str:
    """Returns a name on one line, without what begins a column of a table."""
    return re.sub(r"[\s|`]+", " ", text)


def said(artifact: Artifact) -> str:
    """Returns what an artifact is called in a comment."""
    return plain(artifact.name).replace("*/", "* /")


def size_of(info: TensorInfo) -> int:
    """Returns the number of values of a tensor."""
    return math.prod(axis or 1 for axis in info.shape)


def shape_of(info: TensorInfo) -> str:
    """Returns a shape as it is read: "1 x 28 x 28"."""
    return " x ".join(map(str, info.shape))


def about(info: TensorInfo, mark: str = "//") -> str:
    """Returns a comment that says what a tensor holds."""
    text = f"{mark} {info.dtype}, {shape_of(info)}"
    if info.scale is not None:
        text += f"; real value = {info.scale!r} * (integer - {info.zero_point})"
    return text
