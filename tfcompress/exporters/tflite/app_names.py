"""Names for generated Kotlin and Swift: of classes, and of a model's tensors."""

from __future__ import annotations

import re

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
    Class Data Double Error Float Float32 FloatArray Foundation Int Int32 Int8
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
