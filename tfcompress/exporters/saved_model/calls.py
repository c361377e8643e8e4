"""Functions in the place of the parts of a graph that repeat."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.repeated import Repeated, Run

_FLOAT = 1


@dataclasses.dataclass
class Called:
    """A graph in which functions are called.

    Attributes:
        nodes: its nodes, by name.
        functions: the functions.
        renamed: what tensors of the graph before are called now.
    """

    nodes: dict[str, Any]
    functions: list[Any]
    renamed: dict[str, str]


def with_calls(graph: Any, outputs: list[Any]) -> Called:
    """Returns the nodes of a graph, with calls where they repeat.

    Args:
        graph: the graph.
        outputs: the tensors that it is for.
    """
    nodes = {node.name: node for node in graph.as_graph_def().node}
    called = Called(nodes, [], {})
    repeated = Repeated(outputs)
    for run in repeated.runs():
        _call(called, Part(repeated, run))
    for node in called.nodes.values():
        for at, tensor in enumerate(node.input):
            key = tensor if ":" in tensor or tensor[0] == "^" else f"{tensor}:0"
            node.input[at] = called.renamed.get(key, tensor)
    return called


class Part:
    """A part that repeats, and what the function for it is given.

    Args:
        repeated: the operations.
        run: where they repeat.
    """

    def __init__(self, repeated: Repeated, run: Run):
        self.repeated, self.run = repeated, run
        # By turn: the tensors that are given, and the numbers that differ.
        self.given: list[list[Any]] = [[] for _ in range(run.count)]
        self.numbers: list[list[float]] = [[] for _ in range(run.count)]
        # What each operation of the first turn reads, where that is not as it was.
        self.sources: dict[tuple[int, int], tuple[str, int]] = {}
        self.leaving = repeated.leaving(run)
        known: dict[tuple, tuple[str, int]] = {}
        for position in range(run.period):
            for slot, inside in enumerate(repeated.inside(run, position, 0)):
                if inside is None:
                    self._give(position, slot, known)

    def turn(self, position: int, turn: int) -> Any:
        """Returns the operation of a position in a turn."""
        return self.repeated.operations[self.run.place(position, turn)]

    @property
    def name(self) -> str:
        """A name for what is made of it, behind that of its last operation."""
        return f"{self.turn(self.run.period - 1, 0).name}/repeated"

    def _give(self, position: int, slot: int, known: dict) -> None:
        turns = range(self.run.count)
        tensors = [self.turn(position, turn).inputs[slot] for turn in turns]
        first = tensors[0]
        if first.op.type == "Const":
            values = [one.op.node_def.attr["value"] for one in tensors]
            if all(value == values[0] for value in values):
                self.sources[position, slot] = ("constant", 0)
                return
            if first.dtype.as_datatype_enum == _FLOAT and first.shape.rank == 0:
                # NaNs are equal by their bytes.
                key = tuple(value.SerializeToString() for value in values)
                if key not in known:
                    known[key] = ("number", len(self.numbers[0]))
                    for column, one in zip(self.numbers, tensors):
                        column.append(_value(one))
                self.sources[position, slot] = known[key]
                return
        key = tuple(one.name for one in tensors)
        if key not in known:
            known[key] = ("given", len(self.given[0]))
            for column, one in zip(self.given, tensors):
                column.append(one)
        self.sources[position, slot] = known[key]


def _value(tensor: Any) -> float:
    import tensorflow as tf

    return tf.make_ndarray(tensor.op.node_def.attr["value"].tensor)


def _call(called: Called, part: Part) -> None:
    import tensorflow as tf

    function = _function(part)
    called.functions.append(function)
    rows = _rows(called, part) if part.numbers[0] else []
    for turn in range(part.run.count):
        operations = [part.turn(at, turn) for at in range(part.run.period)]
        call = tf.compat.v1.NodeDef(
            name=f"{operations[-1].name}/call", op="PartitionedCall"
        )
        given = part.given[turn]
        call.input.extend([*rows[turn : turn + 1], *(one.name for one in given)])
        types = [_FLOAT] * bool(rows) + [one.dtype.as_datatype_enum for one in given]
        call.attr["Tin"].list.type.extend(types)
        call.attr["f"].func.name = function.name
        for number, (position, place) in enumerate(part.leaving):
            tensor = operations[position].outputs[place]
            call.attr["Tout"].list.type.append(tensor.dtype.as_datatype_enum)
            called.renamed[tensor.name] = f"{call.name}:{number}"
        for operation in operations:
            del called.nodes[operation.name]
        called.nodes[call.name] = call


def _rows(called: Called, part: Part) -> list[str]:
    """Returns the names of tensors with the numbers of each turn."""
    import tensorflow as tf

    numbers = tf.compat.v1.NodeDef(name=f"{part.name}/numbers", op="Const")
    numbers.attr["dtype"].type = _FLOAT
    table = np.array(part.numbers, "float32")
    numbers.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(table))
    rows = tf.compat.v1.NodeDef(name=f"{part.name}/rows", op="Unpack")
    rows.input.append(numbers.name)
    rows.attr["T"].type, rows.attr["num"].i = _FLOAT, part.run.count
    called.nodes |= {node.name: node for node in (numbers, rows)}
    return [f"{rows.name}:{turn}" for turn in range(part.run.count)]


def _function(part: Part) -> Any:
    """Returns the function that computes one turn."""
    import tensorflow as tf

    count = len(part.numbers[0])
    specs = [tf.TensorSpec((count,), name="numbers")] if count else []
    for turns in zip(*part.given):
        shape = turns[0].shape
        for one in turns[1:]:
            shape = shape.most_specific_compatible_shape(one.shape)
        specs.append(tf.TensorSpec(shape, turns[0].dtype, name=f"given_{len(specs)}"))

    def compute(*tensors: Any) -> list[Any]:
        row = tf.unstack(tensors[0]) if count else []
        known = {("number", at): one for at, one in enumerate(row)}
        rest = tensors[bool(count) :]
        known |= {("given", at): one for at, one in enumerate(rest)}
        return _body(part, known)

    return tf.function(compute, autograph=False).get_concrete_function(*specs)


def _body(part: Part, known: dict) -> list[Any]:
    """Puts the operations of the first turn into the function that is traced."""
    import tensorflow as tf

    names = {source: f"{source[0]}_{source[1]}:0" for source in known}
    graph, constants = tf.compat.v1.GraphDef(), set()
    for position in range(part.run.period):
        operation = part.turn(position, 0)
        node = graph.node.add()
        node.CopyFrom(operation.node_def)
        for slot, tensor in enumerate(operation.inputs):
            source = part.sources.get((position, slot))
            if source in names:
                node.input[slot] = names[source]
            elif source is not None and tensor.op.name not in constants:
                constants.add(tensor.op.name)
                graph.node.add().CopyFrom(tensor.op.node_def)
    wanted = [part.turn(at, 0).outputs[place].name for at, place in part.leaving]
    given = {names[source]: tensor for source, tensor in known.items()}
    return tf.graph_util.import_graph_def(graph, given, wanted, name="")
