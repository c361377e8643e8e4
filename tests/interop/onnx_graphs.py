"""Small ONNX graphs, and how far from ONNX Runtime their Keras models are."""

import numpy as np
import onnx
import onnxruntime
from keras import tree

from tfcompress import from_onnx
from tfcompress.interop.onnx.inputs import Inputs
from tfcompress.interop.onnx.reading import read
from tfcompress.interop.onnx.rebuilding import rebuilt


def node(kind, inputs, output="y", name=None, **attributes):
    """Returns a node; inputs and outputs are names with spaces between."""
    given = ["" if one == "-" else one for one in inputs.split()]
    name = f"{kind.lower()}_{output.split()[0]}" if name is None else name
    return onnx.helper.make_node(kind, given, output.split(), name=name, **attributes)


def save(path, nodes, inputs, weights=(), outputs="y", opset=18):
    """Writes a graph; inputs are shapes by name, or pairs of those and types."""
    ports = []
    for name, shape in inputs.items():
        kind = onnx.TensorProto.FLOAT
        if isinstance(shape, tuple):
            shape, kind = shape
        ports.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        ports,
        [
            onnx.helper.make_value_info(name, onnx.TypeProto())
            for name in outputs.split()
        ],
        [onnx.numpy_helper.from_array(a, name) for name, a in dict(weights).items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    # ONNX Runtime wants to be told the types of the outputs.
    inferred = onnx.shape_inference.infer_shapes(model)
    onnx.save(inferred, path)
    return path


def numbers(*shape, low=-1.0, high=1.0, seed=0):
    """Returns random floats."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype("float32")


def difference(path):
    """Returns the model of a file, and how far it is from ONNX Runtime."""
    model, off, _ = compared(path, 3)
    return model, off


def compared(path, batch):
    """Returns the model of a file, how far it is from ONNX Runtime, and the inputs.

    The distance is a share of the largest number, where that is above 1.
    """
    file = read(path)
    inputs = Inputs(file, None)
    made = rebuilt(file, inputs)
    rng = np.random.default_rng(1)
    feeds, arrays = {}, []
    for port, order in zip(inputs.ports, made.inputs):
        count = inputs.fixed or batch
        shape = [count if n == inputs.batch else n for n in inputs.shapes[port.name]]
        values = rng.normal(size=shape)
        if port.dtype[0] in "iu":
            values = rng.integers(0, made.rows.get(port.name, 2), shape)
        feeds[port.name] = values.astype(port.dtype)
        arrays.append(feeds[port.name].transpose(order))
    arrays = arrays[0] if len(arrays) == 1 else arrays
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    wanted = session.run(None, feeds)
    model = from_onnx(path)
    errors = [
        _error(np.asarray(one).transpose(np.argsort(order)), want)
        for one, order, want in zip(
            tree.flatten(model(arrays)), made.outputs, wanted, strict=True
        )
    ]
    return model, float(max(errors)), arrays


def _error(found, wanted):
    assert found.shape == wanted.shape
    infinite = ~np.isfinite(wanted)
    assert np.array_equal(found[infinite], wanted[infinite])
    found, wanted = (a[~infinite].astype("float64") for a in (found, wanted))
    return np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max())
