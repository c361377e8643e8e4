"""Several .tflite files as one: a signature for each, and what is equal stored once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfcompress.core.errors import ExportError
from tfcompress.exporters.tflite.assembling import put_together
from tfcompress.exporters.tflite.flatbuffer import read_schema

# The oldest runtime that has all operators and their versions.
_RUNTIME = b"min_runtime_version"


def merged(files: Mapping[str, bytes]) -> bytes:
    """Returns one file with a signature for each of several.

    Args:
        files: .tflite files by the name of the signature; each has one signature, or
            several, which then keep their own names.
    """
    schema = read_schema()
    parts = []
    for name, content in files.items():
        part = schema.ModelT.InitFromPackedBuf(content, 0)
        if len(part.signatureDefs) == 1:
            part.signatureDefs[0].signatureKey = name
        parts.append(part)
    first, *others = parts
    if any(buffer.offset > 1 for part in parts for buffer in part.buffers):
        raise ExportError(
            "A file of more than 2 GB holds one signature.",
            received=f"{', '.join(map(repr, files))}",
            expected="signatures of smaller models, or a file for each",
        )
    for other in others:
        _append(first, other)
    for signature in first.signatureDefs:
        first.subgraphs[signature.subgraphIndex].name = signature.signatureKey
    return put_together(first)


def _append(model: Any, other: Any) -> None:
    """Adds the graphs and signatures of another file, which is used up by this."""
    graphs, buffers = len(model.subgraphs), len(model.buffers)
    codes = [_code_of(model, code) for code in other.operatorCodes]
    for graph in other.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer += buffers
        for operator in graph.operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]
            for options in (operator.builtinOptions, operator.builtinOptions2):
                _move_graphs(options, graphs)
    for signature in other.signatureDefs:
        signature.subgraphIndex += graphs
    model.subgraphs += other.subgraphs
    model.signatureDefs += other.signatureDefs
    _keep_newer_runtime(model, other)
    model.buffers += other.buffers


def _code_of(model: Any, code: Any) -> int:
    """Returns the number of an operator's code in a file, which then has it."""
    wanted = vars(code)
    for number, known in enumerate(model.operatorCodes):
        if vars(known) == wanted:
            return number
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _move_graphs(options: Any, by: int) -> None:
    """Adds to the numbers of the graphs that an operator calls."""
    for field in _graph_fields(options):
        setattr(options, field, getattr(options, field) + by)


def _keep_newer_runtime(model: Any, other: Any) -> None:
    """Lets a file ask for the newer runtime of its own and another file's."""
    mine, theirs = (
        next((m for m in one.metadata or [] if m.name == _RUNTIME), None)
        for one in (model, other)
    )
    if mine is None or theirs is None:
        return
    old, new = model.buffers[mine.buffer], other.buffers[theirs.buffer]
    if _version(new) > _version(old):
        old.data = new.data


def _version(buffer: Any) -> tuple[int, ...]:
    text = bytes(bytearray(buffer.data)).rstrip(b"\0").decode()
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def inlined(content: bytes, bodies: Mapping[str, bytes], name: str) -> bytes:
    """Returns a file whose signatures compute an input of theirs themselves.

    Args:
        content: a file of several signatures.
        bodies: by signature, a file with one output, which takes the input's place.
        name: the name of that input.
    """
    schema = read_schema()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    signatures = {one.signatureKey.decode(): one for one in model.signatureDefs}
    done = set()
    for key, body in bodies.items():
        graphs = len(model.subgraphs)
        _append(model, schema.ModelT.InitFromPackedBuf(body, 0))
        inner = model.signatureDefs.pop()
        done.add(inner.subgraphIndex)
        assert inner.subgraphIndex >= graphs
        _inline(model, signatures[key], inner, name.encode())
    _drop_graphs(model, done)
    return put_together(model)


def _inline(model: Any, signature: Any, inner: Any, name: bytes) -> None:
    """Puts the graph of one signature before that of another."""
    graph, body = (model.subgraphs[one.subgraphIndex] for one in (signature, inner))
    count = len(graph.tensors)
    for operator in body.operators:
        for side in ("inputs", "outputs", "intermediates"):
            indices = getattr(operator, side)
            if indices is not None:
                moved = [int(i) + count if i >= 0 else int(i) for i in indices]
                setattr(operator, side, moved)
    (entry,) = [one for one in signature.inputs if one.name == name]
    (output,) = inner.outputs
    old, new = entry.tensorIndex, output.tensorIndex + count
    for operator in graph.operators:
        operator.inputs = [new if i == old else int(i) for i in operator.inputs]
    graph.tensors += body.tensors
    graph.operators = [*body.operators, *graph.operators]
    for given in inner.inputs:
        given.tensorIndex += count
    places = {int(i): [int(i)] for i in graph.inputs}
    places[old] = [int(i) + count for i in body.inputs]
    graph.inputs = [i for place in graph.inputs for i in places[int(place)]]
    others = [one for one in signature.inputs if one is not entry]
    signature.inputs = [*inner.inputs, *others]


def _drop_graphs(model: Any, dropped: set[int]) -> None:
    kept = [i for i in range(len(model.subgraphs)) if i not in dropped]
    places = {old: new for new, old in enumerate(kept)}
    model.subgraphs = [model.subgraphs[i] for i in kept]
    for graph in model.subgraphs:
        for operator in graph.operators:
            for options in (operator.builtinOptions, operator.builtinOptions2):
                for field in _graph_fields(options):
                    setattr(options, field, places[getattr(options, field)])
    for signature in model.signatureDefs:
        signature.subgraphIndex = places[signature.subgraphIndex]


def _graph_fields(options: Any) -> list[str]:
    """Returns which fields of an operator's options number a graph (WHILE, IF ...)."""
    names = vars(options) if options is not None else ()
    return [n for n in names if n.endswith("SubgraphIndex") or n == "subgraph"]
