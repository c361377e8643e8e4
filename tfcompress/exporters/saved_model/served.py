"""From the trace of a model to the graph that a server runs for each request."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.calls import with_calls
from tfcompress.exporters.saved_model.graph import producer, with_port
from tfcompress.exporters.saved_model.held import Held
from tfcompress.exporters.saved_model.served_nodes import Served
from tfcompress.exporters.saved_model.simplified import simplify
from tfcompress.exporters.tracing import TracedModel

# Entries of a constant that is worth having in place of what makes it.
_MOST_ENTRIES = 1024


def served(traced: TracedModel) -> TracedModel:
    """Returns a model that computes the very same, and per request only what it must.

    What no input reaches is computed now. Weights become integers in the checkpoint
    where that is exact. Operators keep their names, which are the paths of layers.
    """
    graph = traced.function.graph
    static = _static(traced)
    names = [tensor.name for tensor in _outputs(traced)]
    frontier = _frontier(graph, static, names)
    values = _evaluated(traced, frontier)
    nodes = _nodes(graph, static)
    parts: tuple[dict, dict] = {}, {}
    for name, value in values.items():
        parts[bool(static[producer(name)])][name] = value
    shapes = {
        tensor.name: tensor.shape.as_list() if tensor.shape.rank is not None else None
        for operation in graph.get_operations()
        for tensor in operation.outputs
    }
    work = Served(nodes, shapes, *parts, names)
    simplify(work)
    _pass_on(nodes)
    held = Held()
    weights = {
        name: held.add(static[producer(name)][0], value)
        for name, value in work.weights.items()
    }
    return _folded(_retraced(traced, work, held, weights, names))


def _folded(traced: TracedModel) -> TracedModel:
    """Returns the same model with functions where its graph repeats itself."""
    import tensorflow as tf

    graph, outputs = traced.function.graph, _outputs(traced)
    called = with_calls(graph, outputs)
    if not called.functions:
        return traced
    names = [called.renamed.get(tensor.name, tensor.name) for tensor in outputs]
    inputs = [tensor.name for tensor in graph.inputs[: len(traced.inputs)]]

    def serve(*tensors: Any) -> dict[str, Any]:
        given = {inner.name: outer for outer, inner in graph.captures}
        given |= dict(zip(inputs, tensors))
        nodes = list(called.nodes.values())
        definitions = [one.function_def for one in called.functions]
        found = _imported(nodes, graph, given, names, definitions)
        for tensor, output in zip(outputs, found):
            output.set_shape(tensor.shape)
        return dict(zip(graph.structured_outputs, found))

    specs = [tf.TensorSpec(i.shape, i.dtype, name=i.name) for i in traced.inputs]
    function = tf.function(serve, autograph=False).get_concrete_function(*specs)
    # TensorFlow forgets a function that nobody holds, and its graph has its name alone.
    function.called = called.functions
    return dataclasses.replace(traced, function=function)


def _nodes(graph: Any, static: dict) -> dict[str, Any]:
    """Returns the nodes; none of them waits for a weight to be read."""
    nodes, early = {}, set(static)
    for node in graph.as_graph_def().node:
        inputs = [i for i in node.input if i[0] != "^" or i[1:] not in early]
        if node.op == "NoOp" and not inputs:
            early.add(node.name)
        del node.input[:]
        node.input.extend(inputs)
        nodes[node.name] = node
    return nodes


def _pass_on(nodes: dict[str, Any]) -> None:
    """Lets all read what an Identity reads, so that it can go."""
    for node in nodes.values():
        for place, tensor in enumerate(node.input):
            maker = nodes.get(producer(tensor))
            while maker is not None and maker.op == "Identity" and tensor[0] != "^":
                if len(maker.input) > 1:
                    break
                tensor = maker.input[0]
                maker = nodes.get(producer(tensor))
            node.input[place] = tensor


def _outputs(traced: TracedModel) -> list[Any]:
    return list(traced.function.graph.structured_outputs.values())


def _static(traced: TracedModel) -> dict[str, tuple[str, ...]]:
    """Returns the operations that no input reaches, and the variables they read."""
    graph = traced.function.graph
    variables = {id(variable.handle): variable for variable in traced.variables}
    changing = _changing(graph)
    read = {
        inner.name: variables[id(outer)].name.removesuffix(":0")
        for outer, inner in graph.captures
        if id(outer) in variables and inner.name not in changing
    }
    found: dict[str, tuple[str, ...]] = {}
    for operation in graph.get_operations():
        inputs = [tensor.name for tensor in operation.inputs]
        if operation.type == "ReadVariableOp" and inputs[0] in read:
            found[operation.name] = (read[inputs[0]],)
        elif _holds_text(operation):
            continue
        elif operation.type == "Const":
            found[operation.name] = ()
        elif _is_computed(operation) and all(
            tensor.op.name in found for tensor in operation.inputs
        ):
            sources = [found[tensor.op.name] for tensor in operation.inputs]
            found[operation.name] = tuple(dict.fromkeys(sum(sources, ())))
            if not found[operation.name] and _is_large(operation):
                del found[operation.name]
    return found


def _changing(graph: Any) -> set[str]:
    """Returns the variables that a request may change, such as seeds and states."""
    definition = graph.as_graph_def()
    inner = [node for one in definition.library.function for node in one.node_def]
    in_calls = any(_assigns(node.op) for node in inner)
    return {
        tensor.name
        for operation in graph.get_operations()
        if _assigns(operation.type)
        or (in_calls and operation.type not in ("ReadVariableOp", "ResourceGather"))
        for tensor in operation.inputs
        if tensor.dtype.name == "resource"
    }


def _assigns(operation: str) -> bool:
    return operation.startswith(("Assign", "Resource")) and operation not in (
        "ResourceGather",
        "ResourceGatherNd",
    )


def _is_computed(operation: Any) -> bool:
    """Returns whether an operation is nothing but a function of its inputs."""
    calls = any(value.HasField("func") for value in operation.node_def.attr.values())
    stateful = operation.op_def.is_stateful or operation.control_inputs
    return bool(operation.inputs) and not stateful and not calls


def _holds_text(operation: Any) -> bool:
    return any(
        tensor.dtype.name in ("string", "variant") for tensor in operation.outputs
    )


def _is_large(operation: Any) -> bool:
    sizes = [tensor.shape.num_elements() for tensor in operation.outputs]
    return any(size is None or size > _MOST_ENTRIES for size in sizes)


def _frontier(graph: Any, static: dict, outputs: list[str]) -> list[Any]:
    """Returns the static tensors that the rest of the graph reads."""
    found: dict[str, Any] = {}
    for operation in graph.get_operations():
        if operation.name not in static:
            for tensor in operation.inputs:
                if tensor.op.name in static:
                    found[tensor.name] = tensor
    for name in outputs:
        if producer(name) in static:
            found[name] = graph.get_tensor_by_name(name)
    return list(found.values())


def _evaluated(traced: TracedModel, tensors: list[Any]) -> dict[str, np.ndarray]:
    import tensorflow as tf

    graph, names = traced.function.graph, [tensor.name for tensor in tensors]

    def evaluate() -> list[Any]:
        given = {inner.name: outer for outer, inner in graph.captures}
        return _imported(list(graph.as_graph_def().node), graph, given, names)

    found = tf.function(evaluate, autograph=False).get_concrete_function()()
    return {name: value.numpy() for name, value in zip(names, found)}


def _imported(
    nodes: list[Any], graph: Any, given: dict, wanted: list[str], more: Any = ()
) -> Any:
    """Puts the nodes that are wanted into the graph that is being traced.

    Args:
        nodes: the nodes.
        graph: the graph that they are from.
        given: tensors of the graph that is being traced, by name.
        wanted: the names of tensors.
        more: definitions of functions that are called, beside those of the graph.
    """
    import tensorflow as tf

    known = {node.name: node for node in nodes}
    stop = set(map(producer, given))
    kept, waiting, used = {}, [producer(name) for name in wanted], set()
    while waiting:
        name = waiting.pop()
        if name in stop:
            used.add(name)
        elif name not in kept:
            kept[name] = known[name]
            waiting += [producer(tensor) for tensor in known[name].input]
    part = tf.compat.v1.GraphDef(library=graph.as_graph_def().library)
    part.library.function.extend(more)
    part.versions.CopyFrom(graph.as_graph_def().versions)
    part.node.extend(node for node in nodes if node.name in kept)
    # What is read of the surrounding process becomes an argument of the new graph.
    capture = tf.compat.v1.get_default_graph().capture
    outside = {name: capture(given[name]) for name in given if producer(name) in used}
    read = {with_port(tensor) for node in part.node for tensor in node.input}
    made = [name for name in wanted if name not in outside]
    found = tf.graph_util.import_graph_def(
        part,
        input_map={name: tensor for name, tensor in outside.items() if name in read},
        return_elements=made,
        name="",
    )
    # What is wanted may be given as well: a mask that the model holds as a constant.
    known = outside | dict(zip(made, found))
    return [known[name] for name in wanted]


def _retraced(
    traced: TracedModel, work: Served, held: Held, weights: dict, names: list[str]
) -> TracedModel:
    import tensorflow as tf

    graph = traced.function.graph
    inputs = [tensor.name for tensor in graph.inputs[: len(traced.inputs)]]
    keys = list(graph.structured_outputs)

    def serve(*tensors: Any) -> dict[str, Any]:
        given = {inner.name: outer for outer, inner in graph.captures}
        given |= dict(zip(inputs, tensors))
        shared: dict[Any, Any] = {}
        for name, value in work.values.items():
            content = (value.dtype.str, value.shape, value.tobytes())
            if content not in shared:
                shared[content] = tf.constant(value)
            given[name] = shared[content]
        for name, variable in weights.items():
            if id(variable) not in shared:
                read = tf.raw_ops.ReadVariableOp(
                    resource=variable.handle, dtype=variable.dtype
                )
                read.set_shape(work.shapes[name])
                shared[id(variable)] = read
            given[name] = shared[id(variable)]
        found = _imported(list(work.nodes.values()), graph, given, names)
        for name, output in zip(names, found):
            # What an operation does not tell, the model did.
            output.set_shape(work.shapes[name])
        return dict(zip(keys, found))

    specs = [tf.TensorSpec(i.shape, i.dtype, name=i.name) for i in traced.inputs]
    function = tf.function(serve, autograph=False).get_concrete_function(*specs)
    read_still = {id(outer) for outer, _ in function.graph.captures}
    still = [v for v in traced.variables if id(v.handle) in read_still]
    return dataclasses.replace(
        traced,
        function=function,
        variables=(*held.variables, *still),
        resources=(*traced.resources, *held.resources()),
    )
