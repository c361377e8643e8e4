"""Which SavedModels compute and do nothing else.

The graph of a SavedModel is a program, part of which runs when it is loaded. TensorFlow
has some 1460 operators, of which a few write files, read them, wait or end the process,
and each release brings more: so those that only compute are allowed by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tfcompress.exporters.publishing import is_inside
from tfcompress.exporters.saved_model.graph import producer, read_graph

# TensorFlow puts these into functions of their own, by which a session would save and
# restore the variables. `tf.saved_model.load` calls none of them.
_CHECKPOINTS = frozenset(
    {
        *("DeviceIndex", "MergeV2Checkpoints", "RestoreV2", "SaveV2"),
        *("ShardedFilename", "Save", "SaveSlices", "Restore", "RestoreSlice"),
    }
)
# These read a file whose name is an input: an asset, or else it is refused.
_TABLE_FILES = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}


@cache
def computing() -> frozenset[str]:
    """Returns the names of the operators that compute and do nothing else."""
    file = Path(__file__).with_name("computing_operations.txt")
    return frozenset(file.read_text(encoding="ascii").split())


def reaching_out(directory: Path) -> list[str]:
    """Returns what in a SavedModel may do more than to compute.

    Args:
        directory: a SavedModel.

    Returns:
        Operators that are not known to only compute, operators that read and write
        checkpoints where more than the saver can call them, and files that lie outside
        of the directory. None of what `export` writes has such.
    """
    model = read_graph(directory)
    functions = {f.signature.name: f for f in model.graph_def.library.function}
    parts = [("", model.graph_def.node)]
    parts += [(name, function.node_def) for name, function in functions.items()]
    found: set[str] = set()
    checkpoints: dict[str, set[str]] = {}
    for name, nodes in parts:
        operators = {node.op for node in nodes} - set(functions)
        found |= operators - computing() - _CHECKPOINTS - set(_TABLE_FILES)
        if operators & _CHECKPOINTS:
            checkpoints[name] = operators & _CHECKPOINTS
    callable_ = _callable(model, parts)
    for name, operators in checkpoints.items():
        if not name or name in callable_:
            found |= operators
    found |= set(_files(model, functions))
    return sorted(found)


def _callable(model: Any, parts: list[tuple[str, Any]]) -> set[str]:
    """Returns the functions that more can call than the saver of a session."""
    saver = model.saver_def
    apart = {producer(saver.save_tensor_name), producer(saver.restore_op_name)}
    found = set(model.object_graph_def.concrete_functions)
    for name, nodes in parts:
        for node in nodes:
            if name or node.name not in apart:
                found.update(_called(node))
                found.add(node.op)
    return found


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.func.name:
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _files(model: Any, functions: dict[str, Any]) -> Iterator[str]:
    """Yields what says that a table's file is not an asset inside the directory."""
    for asset in model.asset_file_def:
        if not is_inside(asset.filename):
            yield f"the asset {asset.filename!r}"
    # Which argument of which function is the name of a file: from the operators back
    # through all that call them.
    files: dict[str, set[int]] = {}
    changed = True
    while changed:
        changed = False
        for name, function in functions.items():
            arguments = [argument.name for argument in function.signature.input_arg]
            for node in function.node_def:
                for position in _positions(node, files):
                    given = node.input[position] if position < len(node.input) else ""
                    if given not in arguments:
                        yield f"{node.op} of a file that is no asset"
                        return
                    known = files.setdefault(name, set())
                    if arguments.index(given) not in known:
                        known.add(arguments.index(given))
                        changed = True
    nodes = model.object_graph_def.nodes
    for name, concrete in model.object_graph_def.concrete_functions.items():
        bound = concrete.bound_inputs
        if name in files:
            free = len(functions[name].signature.input_arg) - len(bound)
            for position in files[name]:
                asset = position >= free and nodes[bound[position - free]]
                if not asset or asset.WhichOneof("kind") != "asset":
                    yield f"a table of '{name}' of a file that is no asset"


def _positions(node: Any, files: dict[str, set[int]]) -> set[int]:
    """Returns the inputs of a node that are names of files."""
    found = set()
    if node.op in _TABLE_FILES:
        found.add(_TABLE_FILES[node.op])
    for name in (node.op, *_called(node)):
        found |= files.get(name, set())
    return found
