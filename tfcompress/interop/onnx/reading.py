"""Reads an .onnx file: nodes, constants, inputs and outputs, as plain data."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.child.probing import require
from tfcompress.core.arguments import path_of
from tfcompress.core.errors import ArtifactError, UnsupportedLayerError, one_line

_OLDEST = 7
_EXPECTED = "a whole .onnx file, as torch.onnx.export writes it"
# What stands in files whose numbers are integers already.
_QUANTIZED = re.compile(
    r"QuantizeLinear|DequantizeLinear|DynamicQuantizeLinear|QLinear\w+|QGemm"
    r"|(Conv|MatMul)Integer\w*"
)


@dataclass(frozen=True)
class Node:
    """One operation of the graph.

    Attributes:
        name: its name, or else that of its first output.
        kind: the operator.
        inputs: names of what it reads; empty for what is left out.
        outputs: names of what it makes.
        attributes: its options.
        proto: the node as it is in the file.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    proto: Any


@dataclass(frozen=True)
class Port:
    """An input of the graph: its name, type and sizes, None where one is free."""

    name: str
    dtype: str
    sizes: tuple[int | None, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """What is in an .onnx file."""

    path: Path
    name: str
    opset: int
    nodes: list[Node]
    constants: dict[str, np.ndarray]
    inputs: list[Port]
    outputs: list[str]


def read(path: str | os.PathLike[str]) -> File:
    """Returns what is in an .onnx file.

    Raises:
        ArtifactError: if there is none, or it is damaged or not whole.
        UnsupportedLayerError: if it is quantized, or of a version that nobody knows.
    """
    require("onnx", "onnx")
    path = path_of(path, "path")
    if not path.is_file():
        raise ArtifactError(
            "There is no such file." if not path.exists() else "This is no file.",
            received=path,
            expected=_EXPECTED,
        )
    model = _parsed(path)
    opset = _opset(model, path)
    _refuse_quantized(model, path)
    constants = _constants(model, path)
    return File(
        path=path,
        name=_word(model.graph.name) or _word(path.stem) or "model",
        opset=opset,
        nodes=[_node(node, path) for node in model.graph.node],
        constants=constants,
        inputs=[
            _port(field, path)
            for field in model.graph.input
            if field.name not in constants
        ],
        outputs=[field.name for field in model.graph.output],
    )


def _parsed(path: Path) -> Any:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        if not model.graph.output or not model.graph.node:
            raise ValueError("it has no graph")
        if not all(isinstance(name, str) for name in _names(model.graph)):
            raise ValueError("a name in it is no text")
    except Exception as error:  # damage shows as any exception of the readers
        raise ArtifactError(
            "This is no ONNX model, or it is damaged or truncated.",
            received=f"{path} ({one_line(error, 200)})",
            expected=_EXPECTED,
            fix="export the model again, or copy the file again",
        ) from error
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise ArtifactError(
            "The weights are in a file beside the model, which cannot be read.",
            received=f"{path} ({one_line(error, 300)})",
            expected="the file of the weights in the same folder, under its own name",
            fix="copy it there, or export with torch.onnx.export(..., "
            "external_data=False)",
        ) from error
    return model


def _names(graph: Any) -> Iterator[Any]:
    """Yields all names, which protobuf leaves as bytes where they are no text."""
    yield graph.name
    for field in (*graph.input, *graph.output, *graph.initializer):
        yield field.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _opset(model: Any, path: Path) -> int:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    versions = {o.domain: o.version for o in model.opset_import}
    opset = int(versions.get("", versions.get("ai.onnx", 0)))
    if not _OLDEST <= opset <= newest:
        raise UnsupportedLayerError(
            "The file uses a version of ONNX's operators that is not known here.",
            received=f"{path} with opset {opset or 'none'}",
            expected=f"an opset from {_OLDEST} to {newest}",
            fix="export with torch.onnx.export(..., opset_version=18), or update the "
            "package onnx",
        )
    return opset


def _refuse_quantized(model: Any, path: Path) -> None:
    found = [n for n in model.graph.node if _QUANTIZED.fullmatch(n.op_type)]
    if found:
        kinds = sorted({node.op_type for node in found})
        raise UnsupportedLayerError(
            "The ONNX model is quantized, and only float models can be read.",
            received=f"{path} with {len(found)} of {', '.join(kinds)}, the first of "
            f"which is '{found[0].name}'",
            expected="the float model, before its quantization",
            fix="export the float model, read it with from_onnx, and quantize that: "
            "tfcompress.calibrate(model, samples), or quantize_aware and fit",
        )


def _constants(model: Any, path: Path) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    found = {}
    for tensor in model.graph.initializer:
        try:
            found[tensor.name] = as_plain(numpy_helper.to_array(tensor))
        except Exception as error:
            raise ArtifactError(
                f"The weight '{tensor.name}' is damaged.",
                received=f"{path} ({one_line(error, 200)})",
                expected=_EXPECTED,
            ) from error
    return found


def as_plain(array: np.ndarray) -> np.ndarray:
    """Returns floats of any size as float32, and everything else as it is."""
    floats = array.dtype.kind == "f" or "float" in array.dtype.name
    return np.asarray(array, "float32") if floats else np.asarray(array)


def _node(node: Any, path: Path) -> Node:
    import onnx

    try:
        attributes = {
            one.name: onnx.helper.get_attribute_value(one) for one in node.attribute
        }
    except Exception as error:
        raise ArtifactError(
            f"The node '{node.name}' is damaged.",
            received=f"{path} ({one_line(error, 200)})",
            expected=_EXPECTED,
        ) from error
    known = node.domain in ("", "ai.onnx")
    return Node(
        name=node.name or next(iter(node.output), node.op_type),
        kind=node.op_type if known else f"{node.domain}.{node.op_type}",
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=attributes,
        proto=node,
    )


def _port(field: Any, path: Path) -> Port:
    import onnx

    tensor = field.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except Exception:
        dtype = "no tensor of numbers"
    kinds = ("float", "bfloat", "int", "uint", "bool")
    if not dtype.startswith(kinds) or not tensor.HasField("shape"):
        raise UnsupportedLayerError(
            f"Input '{field.name}' has no known type or shape.",
            received=f"{path}, {dtype}",
            expected="a tensor of numbers with a known number of axes",
        )
    axes = tensor.shape.dim
    return Port(
        name=field.name,
        dtype=dtype,
        sizes=tuple(a.dim_value if a.HasField("dim_value") else None for a in axes),
        labels=tuple(a.dim_param or f"axis {i}" for i, a in enumerate(axes)),
    )


def in_ascii(name: str) -> str:
    """Returns a name without accents, and its other foreign letters as their numbers.

    >>> in_ascii("modèle_层")
    'modele_u5c42'
    """
    letters = unicodedata.normalize("NFKD", name)
    return "".join(
        letter if letter.isascii() else f"u{ord(letter):04x}"
        for letter in letters
        if not unicodedata.combining(letter)
    )


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", in_ascii(name)).strip("_")
