"""The reference for MACs: a count from the graph that TensorFlow traces of a model.

Knows nothing of layers: it walks the operations of a concrete function for one sample,
with its function bodies and its loops times their trips. Shapes must be static.
"""

import math

import keras
import tensorflow as tf

# Products that are part of a decomposition; their number depends on an algorithm.
_UNCOUNTABLE = ("FFT", "Cholesky", "Svd", "Qr", "MatrixInverse", "MatrixSolve", "Eig")


def graph_macs(model):
    """Returns the multiply-accumulates of one sample through `model`, at inference."""
    inputs = keras.tree.map_structure(
        lambda t: tf.TensorSpec(
            (t.shape[0] or 1, *(size or 1 for size in t.shape[1:])), t.dtype
        ),
        model.inputs[0] if isinstance(model, keras.Sequential) else model.input,
    )
    batch = keras.tree.flatten(inputs)[0].shape[0]
    function = tf.function(lambda x: model(x, training=False), jit_compile=False)
    graph = function.get_concrete_function(inputs).graph
    return round(_count(graph) / batch)


def _count(graph):
    return sum(_macs(operation, graph) for operation in _needed(graph))


def _needed(graph):
    """The operations that outputs depend on; Keras runs a cell once for its shapes."""
    todo, needed = [tensor.op for tensor in graph.outputs], {}
    while todo:
        operation = todo.pop()
        if operation.name not in needed:
            needed[operation.name] = operation
            todo += [tensor.op for tensor in operation.inputs]
            todo += operation.control_inputs
    return needed.values()


def _sizes(tensor):
    sizes = tensor.shape.as_list()
    if None in sizes:
        raise ValueError(f"{tensor.op.type} '{tensor.name}' has a free shape: {sizes}")
    return sizes


def _macs(operation, graph):
    kind = operation.type
    if kind in ("PartitionedCall", "StatefulPartitionedCall"):
        return _count(_function(graph, operation.get_attr("f").name))
    if kind in ("While", "StatelessWhile"):
        trips = _number(operation.inputs[1])
        if trips is None or trips < 0:
            raise ValueError(f"the loop {operation.name} has no known number of trips")
        return int(trips) * _count(_function(graph, operation.get_attr("body").name))
    if kind in ("If", "StatelessIf"):
        branches = (
            operation.get_attr(f"{part}_branch").name for part in ("then", "else")
        )
        return max(_count(_function(graph, name)) for name in branches)
    if kind in _PRODUCTS:
        return _PRODUCTS[kind](operation)
    if any(part in kind for part in _UNCOUNTABLE):
        raise ValueError(f"{kind} is a decomposition")
    return 0


def _number(tensor):
    """The value of a scalar, also of one that is the maximum of a single number."""
    single = tensor.op.type == "Max" and tensor.op.inputs[0].shape.rank == 0
    return tf.get_static_value(tensor.op.inputs[0] if single else tensor)


def _function(graph, name):
    function = graph._get_function(name)
    return function.graph if hasattr(function, "graph") else function


def _matmul(operation):
    summed = _sizes(operation.inputs[0])[
        -2 if operation.get_attr("transpose_a") else -1
    ]
    return math.prod(_sizes(operation.outputs[0])) * summed


def _batch_matmul(operation):
    summed = _sizes(operation.inputs[0])[-2 if operation.get_attr("adj_x") else -1]
    return math.prod(_sizes(operation.outputs[0])) * summed


def _einsum(operation):
    equation = operation.get_attr("equation").decode().replace(" ", "")
    source = equation.split("->")[0]
    sizes, free = {}, 1
    for term, tensor in zip(source.split(","), operation.inputs):
        shape = _sizes(tensor)
        before, dots, after = term.partition("...")
        last = len(shape) - len(after)
        sizes.update(zip(before, shape))
        sizes.update(zip(after, shape[last:]))
        if dots:
            free = max(free, math.prod(shape[len(before) : last]))
    if len(operation.inputs) < 2:
        return 0
    return free * math.prod(sizes.values())


def _conv(operation):
    kernel = _sizes(operation.inputs[1])
    return _made(operation) * math.prod(kernel[:-1])


def _depthwise(operation):
    kernel = _sizes(operation.inputs[1])
    return _made(operation) * math.prod(kernel[:-2])


def _made(operation):
    """How many numbers a convolution makes, without what is cropped away.

    On a processor a dilated convolution is one of small images, filled up to one size.
    """
    (output,) = operation.outputs
    for reader in output.consumers():
        # Of one spatial axis, another is taken off in between.
        after = reader.outputs[0].consumers() if reader.type == "Squeeze" else [reader]
        for one in after:
            if one.type == "BatchToSpaceND":
                (output,) = one.outputs
    return math.prod(_sizes(output))


def _transposed(operation):
    kernel = _sizes(operation.inputs[1])
    return math.prod(_sizes(operation.inputs[2])) * math.prod(kernel[:-1])


_PRODUCTS = {
    "MatMul": _matmul,
    "BatchMatMul": _batch_matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "Einsum": _einsum,
    "XlaEinsum": _einsum,
    "Conv2D": _conv,
    "Conv3D": _conv,
    "Conv": _conv,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
}
