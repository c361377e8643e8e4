"""Reading the graph of a SavedModel: which operators a signature runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcompress.exporters.tensors import OperatorCount

# What passes tensors on, and what makes the ones that others read.
_PLUMBING = frozenset({"Identity", "IdentityN", "NoOp", "Placeholder", "VarHandleOp"})
_CONSTANTS = frozenset({"Const", "ReadVariableOp"})
_HANDLES = frozenset({"resource", "variant"})
_COMPILED = "_XlaMustCompile"
_STRING = 7


def census(directory: Path, signature: str) -> tuple[OperatorCount, ...]:
    """Returns how often each operator stands in the graph of a signature.

    Functions are counted where they are called, the body of a loop once.

    Args:
        directory: a SavedModel.
        signature: the name of the signature; an unknown one runs nothing.
    """
    model = read_graph(directory)
    functions = {f.signature.name: f.node_def for f in model.graph_def.library.function}
    definitions = {op.name: op for op in model.meta_info_def.stripped_op_list.op}
    outputs = model.signature_def[signature].outputs.values()
    nodes = _behind(model.graph_def.node, [tensor.name for tensor in outputs])
    counts = Counter(_operators(nodes, functions, definitions))
    return tuple(
        OperatorCount(name, activations, weights, count)
        for (name, activations, weights), count in sorted(counts.items())
    )


def order_of_inputs(graph: Any, names: Iterable[str]) -> list[str] | None:
    """Returns the inputs of a signature in the order in which the model takes them.

    A signature has them by name alone. The function behind it may take a list of the
    same names (as `model.export` of Keras saves it), or TensorFlow has numbered them.
    """
    wanted, found = sorted(names), []
    for function in graph.object_graph_def.concrete_functions.values():
        values = function.canonicalized_input_signature.tuple_value.values
        taken = list(_names_in_order(values[0])) if values else []
        if sorted(taken) == wanted and taken not in found:
            found.append(taken)
    if not found and wanted:
        numbered = [wanted[0], *(f"{wanted[0]}_{i}" for i in range(1, len(wanted)))]
        found = [numbered] if sorted(numbered) == wanted else []
    return found[0] if len(found) == 1 else None


def _names_in_order(value: Any) -> Iterator[str]:
    """Yields the names of tensors in lists; those in a dict have no order."""
    kind = value.WhichOneof("kind")
    if kind == "tensor_spec_value":
        yield value.tensor_spec_value.name
    elif kind in ("tuple_value", "list_value"):
        for part in getattr(value, kind).values:
            yield from _names_in_order(part)


def open_functions(directory: Path) -> None:
    """Lets converters see into functions that TensorFlow would compile by XLA.

    Keras computes grouped convolutions in one, and converters take it for an operator.

    Args:
        directory: a SavedModel; its file is written anew.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for part in saved.meta_graphs:
        functions = part.graph_def.library.function
        for bearer in [
            *functions,
            *part.graph_def.node,
            *(node for function in functions for node in function.node_def),
        ]:
            bearer.attr.pop(_COMPILED, None)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def without_notes(directory: Path) -> None:
    """Takes out what no server reads, a third of a small graph.

    That is the shapes of tensors, which loading infers anew, and the function by which
    a session would save the variables: weights that are held as integers are no state.

    Args:
        directory: a SavedModel; its file is written anew. The fingerprint, which
            loaders do without, was that of the other file, and goes.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for part in saved.meta_graphs:
        _forget_saving(part)
        for nodes in (
            part.graph_def.node,
            *(function.node_def for function in part.graph_def.library.function),
        ):
            for node in nodes:
                node.attr.pop("_output_shapes", None)
    path.write_bytes(saved.SerializeToString(deterministic=True))
    (directory / "fingerprint.pb").unlink(missing_ok=True)


def _forget_saving(part: Any) -> None:
    """Lets saving fail with a message, and leaves out what only saving needs."""
    graph, saver = part.graph_def, part.saver_def
    saving = next(n for n in graph.node if n.name == producer(saver.save_tensor_name))
    function = saving.attr["f"].func.name
    for name, value in (
        ("no", False),
        ("reason", b"made for serving: not saved again"),
    ):
        node = graph.node.add(name=f"saver_{name}", op="Const")
        _hold(node, value)
    check = graph.node.add(name="saver_check", op="Assert")
    check.input.extend(["saver_no", "saver_reason"])
    check.attr["T"].list.type.append(_STRING)
    refusal = graph.node.add(name="saver_refusal", op="Identity")
    refusal.input.extend([saver.filename_tensor_name, "^saver_check"])
    refusal.attr["T"].type = _STRING
    saver.save_tensor_name = "saver_refusal:0"
    wanted = [saver.save_tensor_name, saver.restore_op_name]
    for signature in part.signature_def.values():
        wanted += [one.name for one in signature.inputs.values()]
        wanted += [one.name for one in signature.outputs.values()]
    for collection in part.collection_def.values():
        wanted += collection.node_list.value
    kept = _behind(graph.node, wanted)
    del graph.node[:]
    graph.node.extend(kept)
    functions = [f for f in graph.library.function if f.signature.name != function]
    del graph.library.function[:]
    graph.library.function.extend(functions)


def _hold(node: Any, value: bool | bytes) -> None:
    import tensorflow as tf

    tensor = tf.make_tensor_proto(value)
    node.attr["value"].tensor.CopyFrom(tensor)
    node.attr["dtype"].type = tensor.dtype


def read_graph(directory: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    content = (directory / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]


def _behind(nodes: Sequence[Any], wanted: list[str]) -> list[Any]:
    """Returns the nodes that these tensors are computed from."""
    known = {node.name: node for node in nodes}
    found: dict[str, Any] = {}
    while wanted:
        name = producer(wanted.pop())
        if name in known and name not in found:
            found[name] = known[name]
            wanted += known[name].input
    return list(found.values())


def _operators(
    nodes: Sequence[Any],
    functions: Mapping[str, Sequence[Any]],
    definitions: Mapping[str, Any],
) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Yields name, dtypes of activations and dtypes of constants of each operator."""
    constants = {node.name for node in nodes if node.op in _CONSTANTS}
    for node in nodes:
        called = [value.func.name for value in node.attr.values() if value.func.name]
        for name in called:
            yield from _operators(functions.get(name, ()), functions, definitions)
        if called or node.op in _PLUMBING | _CONSTANTS:
            continue
        if node.op not in definitions:
            # TensorFlow forgets operators that stand in the bodies of loops only.
            yield node.op, (), ()
            continue
        definition = definitions[node.op]
        activations = set(_dtypes(node, definition, definition.output_arg))
        weights: set[str] = set()
        for name, dtype in zip(
            node.input, _dtypes(node, definition, definition.input_arg), strict=False
        ):
            (weights if producer(name) in constants else activations).add(dtype)
        yield (
            node.op,
            tuple(sorted(activations - _HANDLES)),
            tuple(sorted(weights - _HANDLES)),
        )


def producer(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]


def with_port(tensor: str) -> str:
    """Returns the name of a tensor with the number of the output that it is."""
    return tensor if ":" in tensor else f"{tensor}:0"


def _dtypes(node: Any, definition: Any, arguments: Sequence[Any]) -> list[str]:
    """Returns the dtype of each tensor; attributes may be left to their defaults."""
    import tensorflow as tf

    attributes = {attribute.name: attribute for attribute in definition.attr}

    def value(name: str) -> Any:
        return node.attr[name] if name in node.attr else attributes[name].default_value

    codes: list[int] = []
    for argument in arguments:
        if argument.type_list_attr:
            codes += value(argument.type_list_attr).list.type
        else:
            count = value(argument.number_attr).i if argument.number_attr else 1
            codes += [argument.type or value(argument.type_attr).type] * count
    return [tf.dtypes.as_dtype(code).name for code in codes]
