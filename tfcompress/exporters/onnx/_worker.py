"""Jobs of the child process for the "onnx" format."""

import sys
from typing import Any


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Converts the SavedModel at `saved_model` to the ONNX file `output`."""
    from tf2onnx import convert

    _take_16_bits()
    arguments, sys.argv = (
        sys.argv,
        [
            "tf2onnx.convert",
            *("--saved-model", job["saved_model"]),
            *("--signature_def", "serving_default"),
            *("--output", job["output"]),
            *("--opset", str(job["opset"])),
        ],
    )
    try:
        convert.main()
    finally:
        sys.argv = arguments
    return {}


def _take_16_bits() -> None:
    """Lets tf2onnx write ranges of 16 bits, of which it knows those of 8 only.

    What reads the file gives the operators a domain, or an operator set, that has them.
    """
    import numpy as np
    from onnx import TensorProto
    from tf2onnx.handler import tf_op
    from tf2onnx.onnx_opset.quantize import FakeQuantWithMinMaxArgs as Narrow

    class Wide:
        @classmethod
        def version_10(cls, ctx: Any, node: Any, **settings: Any) -> None:
            if node.get_attr("num_bits").i != 16:
                Narrow.version_10(ctx, node, **settings)
                return
            low, high = (node.inputs[place].get_tensor_value() for place in (1, 2))
            # Even about zero, from -32767 to 32767.
            step = np.array((high - low) / (2**16 - 2), "float32")
            zero = np.array(2**15, "uint16")
            grid = [
                ctx.make_const(f"{node.name}_{part}", value).name
                for part, value in (("scaley", step), ("zpy", zero))
            ]
            made, shape = node.output[0], ctx.get_shape(node.input[0])
            source, name = node.input[0], node.name
            ctx.remove_node(name)
            for kind, dtype in (
                ("QuantizeLinear", TensorProto.UINT16),
                ("DequantizeLinear", TensorProto.FLOAT),
            ):
                source = ctx.make_node(
                    kind,
                    [source, *grid],
                    op_name_scope=name,
                    shapes=[shape],
                    dtypes=[dtype],
                ).output[0]
            ctx.replace_all_inputs(made, source)

    tf_op(["FakeQuantWithMinMaxVars"])(Wide)


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the ONNX file at `path` and runs it on its samples, or once on zeros."""
    import numpy as np

    session = _session(job["path"], threads=1)
    if "samples" in job:
        _, outputs = job["names"]
        return job["answer"](lambda batch: session.run(outputs, _texts(batch)))
    feeds = {}
    for entry in session.get_inputs():
        free = [size for size in entry.shape[1:] if not isinstance(size, int)]
        if free or entry.type == "tensor(string)":
            # No size that one could safely invent.
            return {"invoked": False}
        kind = entry.type.removeprefix("tensor(").removesuffix(")")
        kind = {"float": "float32", "double": "float64"}.get(kind, kind)
        shape = [size if isinstance(size, int) else 1 for size in entry.shape]
        feeds[entry.name] = np.zeros(shape, kind)
    session.run(None, feeds)
    return {"invoked": True}


def _session(path: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )


def call(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the ONNX file at `path` on the arrays of a job."""
    import time

    session = job["kept"](lambda: _session(job["path"], job["threads"] or 0))
    start = time.perf_counter()
    found = session.run(job["outputs"], _texts(job["arrays"]))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "arrays": dict(zip(job["outputs"], found))}


def _texts(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: _text(array) for name, array in batch.items()}


def _text(array: Any) -> Any:
    import numpy as np

    if array.dtype == object:
        texts = [t.decode() if isinstance(t, bytes) else t for t in array.flat]
        array = np.array(texts, object).reshape(array.shape)
    return array.astype(object) if array.dtype.kind == "U" else array


# Operators that multiply and add. Of an `LSTM` the second input is one of two kernels.
_ON_INTEGERS = {"ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul"}
_ON_FLOATS = {
    *("Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "Gemm"),
    *("LSTM", "MatMul", "MatMulIntegerToFloat", "MatMulNBits"),
}


def integers(job: dict[str, Any]) -> dict[str, Any]:
    """Tells which share of multiply-accumulates ONNX Runtime does on integers.

    Its own graph says so, which it makes of the file at `path` and writes to `output`.
    What is in the body of a loop counts once.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = job["output"]
    # All that chooses kernels; what is left out arranges floats in memory.
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.graph_optimization_level = level
    providers = ["CPUExecutionProvider"]
    onnxruntime.InferenceSession(job["path"], options, providers=providers)
    shapes = _shapes(onnx.shape_inference.infer_shapes(onnx.load(job["path"])).graph)
    graph = onnx.load(job["output"]).graph
    shapes = {**_shapes(graph), **shapes}
    total = done = 0
    for node in _nodes(graph):
        products = _products(node, shapes)
        if products is None:
            return {"share": None}
        total += products
        done += products if node.op_type in _ON_INTEGERS else 0
    return {"share": done / total if total else None}


def _bodies(node: Any) -> list[Any]:
    return [one.g for one in node.attribute if one.HasField("g")]


def _nodes(graph: Any) -> list[Any]:
    inner = [n for node in graph.node for body in _bodies(node) for n in _nodes(body)]
    return [*graph.node, *inner]


def _shapes(graph: Any) -> dict[str, list[int]]:
    """Returns the shapes of tensors; sizes that are free are 1."""
    found = {one.name: list(one.dims) for one in graph.initializer}
    for one in (*graph.value_info, *graph.input, *graph.output):
        if one.type.tensor_type.HasField("shape"):
            sizes = one.type.tensor_type.shape.dim
            found[one.name] = [size.dim_value or 1 for size in sizes]
    for node in graph.node:
        for body in _bodies(node):
            found |= _shapes(body)
    return found


def _products(node: Any, shapes: dict[str, list[int]]) -> int | None:
    """Returns the multiply-accumulates of a node; `None` if shapes are not known."""
    import math
    import re

    kind = node.op_type
    if kind not in _ON_INTEGERS | _ON_FLOATS:
        return 0
    place = 3 if kind in ("QGemm", "QLinearConv", "QLinearMatMul") else 1
    # The last part of these names is of ONNX Runtime, the first of the file.
    names = [node.input[0], node.input[place], node.output[0]]
    names = [re.sub("_(q_to_dq|post_dq|pre_q)$", "", name) for name in names]
    data, kernel, made = map(shapes.get, names)
    if kind in ("LSTM", "GRU"):
        again = shapes.get(node.input[2])
        if not (data and kernel and again):
            return None
        return data[0] * (math.prod(kernel) + math.prod(again))
    if "Conv" in kind:
        moved = data if kind == "ConvTranspose" else made
        if moved is None or kernel is None:
            return None
        return math.prod(moved) * math.prod(kernel[1:])
    return None if made is None or not data else math.prod(made) * data[-1]


JOBS = {
    "call": call,
    "convert": convert,
    "integers": integers,
    "open": probe,
    "probe": probe,
}
