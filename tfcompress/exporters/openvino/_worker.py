"""Jobs of the child process for the "openvino" format."""

import sys
from typing import Any

# The default of some processors is bfloat16, which is another number.
_F32 = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
# Two products of 255 and this fit in 16 bits, two of 255 and 127 do not.
_HALF = 64
# Operations that move numbers and change none.
_MOVES = {
    "Convert",
    "Gather",
    "MaxPool",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "StridedSlice",
    "Transpose",
    "Unsqueeze",
    "VariadicSplit",
}
# The axis of the inputs' channels in a kernel; in the data it is axis 1.
_KERNEL_AXES = {"Convolution": 1, "ConvolutionBackpropData": 0}
# What the plugin for processors calls the layers that multiply and add.
_PRODUCTS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}


def _openvino() -> Any:
    """Imports OpenVINO, without the package that tells its makers of each conversion.

    It forks this process for that, and the forked one waits for ever for the lock of
    the standard input, on which jobs come.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the model `source` as OpenVINO IR, `output`, with the given names.

    A .tflite file has its inputs and outputs in the order of the names already; a
    SavedModel has their names.
    """
    openvino = _openvino()
    model = openvino.convert_model(job["source"])
    if job["source"].endswith(".tflite"):
        for ports, names in (
            (model.inputs, job["inputs"]),
            (model.outputs, job["outputs"]),
        ):
            for port, name in zip(ports, names):
                port.get_tensor().set_names({name})
    results = [model.output(name).get_node() for name in job["outputs"]]
    parameters = [model.input(name).get_node() for name in job["inputs"]]
    model = openvino.Model(results, parameters, job["name"])
    for port in [*model.inputs, *model.outputs]:
        (known,) = set(job["inputs"] + job["outputs"]) & port.get_names()
        port.get_tensor().set_names({known})
    _keep_sums_exact(model)
    openvino.save_model(model, job["output"], compress_to_fp16=job["float16"])
    return {}


def _keep_sums_exact(model: Any) -> None:
    """Changes kernels of 8 bits so that no processor cuts sums of their products.

    On x86 without VNNI, OpenVINO's integer kernels (oneDNN) multiply by an instruction
    that adds two products in 16 bits and saturates. A kernel `w` in which two products
    may be too large becomes `[clip(w), w - clip(w)]`, each within 64, on the data
    twice: as many bytes, the same sums, still in integers. Products of two tensors of
    data, and convolutions in groups that read or make more than one channel, are
    computed in float, where they are exact. So are sums of two tensors: OpenVINO makes
    them part of the convolution before, and leaves out the rounding between the two.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "MatMul":
            flags = node.get_attributes()
            data_axis = -2 if flags["transpose_a"] else -1
            kernel_axis = -1 if flags["transpose_b"] else -2
        elif kind in _KERNEL_AXES:
            data_axis, kernel_axis = 1, _KERNEL_AXES[kind]
        else:
            if kind == "GroupConvolution" and max(node.get_input_shape(1)[1:3]) > 1:
                _in_float(node, 1)
            for position in (0, 1) if kind in ("Add", "Subtract") else ():
                made = node.input_value(position).get_node()
                if made.get_type_name() == "FakeQuantize":
                    _in_float(node, position)
            continue
        codes = _kernel_of(node)
        if codes is not None:
            _split(node, data_axis, kernel_axis % codes.data.ndim, codes)
        elif kind == "MatMul" and _is_data(node.input_value(1).get_node()):
            _in_float(node, 1)


def _kernel_of(node: Any) -> Any:
    """Returns the constant of 8-bit integers in `constant * scale`, if it is one."""
    product = node.input_value(1).get_node()
    if product.get_type_name() != "Multiply":
        return None
    convert = product.input_value(0).get_node()
    if convert.get_type_name() != "Convert":
        return None
    constant = convert.input_value(0).get_node()
    whole = constant.get_type_name() == "Constant"
    integer = whole and constant.get_element_type().type_name in ("i8", "i4")
    return constant if integer else None


def _is_data(node: Any) -> bool:
    """Returns whether what `node` gives depends on an input of the model."""
    # Deep models have more layers than Python has frames.
    waiting = [node]
    seen: set[str] = set()
    while waiting:
        one = waiting.pop()
        if one.get_type_name() == "Parameter":
            return True
        before = [value.get_node() for value in one.input_values()]
        waiting += [n for n in before if n.get_friendly_name() not in seen]
        seen.update(n.get_friendly_name() for n in before)
    return False


def _split(node: Any, data_axis: int, kernel_axis: int, constant: Any) -> None:
    import numpy as np
    from openvino import opset13 as ops

    codes = constant.data
    output_axis = 1 - kernel_axis if node.get_type_name() != "MatMul" else None
    rows = (
        np.moveaxis(codes, output_axis, 0).reshape(codes.shape[output_axis], -1)
        if output_axis is not None
        else np.moveaxis(codes, kernel_axis, -1).reshape(-1, codes.shape[kernel_axis])
    )
    largest = np.sort(rows.astype("int32"), axis=1)
    fits = max(largest[:, -2:].sum(1).max(), -largest[:, :2].sum(1).min()) <= 2 * _HALF
    if fits:
        return
    product = node.input_value(1).get_node()
    whole = product.input_value(0)
    near = ops.clamp(whole, -float(_HALF), float(_HALF))
    both = ops.concat([near, ops.subtract(whole, near)], kernel_axis)
    bounds = np.full((1,) * codes.ndim, 127, "float32")
    scale = product.input_value(1).get_node().data.astype("float32")
    scale = scale.reshape((1,) * (codes.ndim - scale.ndim) + scale.shape)
    ends = [ops.constant(end) for end in (-bounds, bounds, -127 * scale, 127 * scale)]
    kernel = ops.fake_quantize(both, *ends, 255)
    node.input(0).replace_source_output(
        ops.concat([node.input_value(0)] * 2, data_axis).output(0)
    )
    node.input(1).replace_source_output(kernel.output(0))


def _in_float(node: Any, position: int) -> None:
    """Puts a maximum that changes nothing where integers would go through."""
    import numpy as np
    from openvino import opset13 as ops

    lowest = ops.constant(np.float32(np.finfo("float32").min))
    kept = ops.maximum(node.input_value(position), lowest)
    node.input(position).replace_source_output(kept.output(0))


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Describes the IR at `path` and runs it on its samples, or once on zeros."""
    import numpy as np

    openvino = _openvino()

    core = openvino.Core()
    model = core.read_model(job["path"])
    compiled = core.compile_model(model, "CPU", _F32)
    feeds: dict[str, Any] = {}
    invoked = True
    if "samples" in job:

        def call(batch: dict) -> list:
            outputs = compiled(batch)
            return [outputs[name] for name in job["names"][1]]

        job["answer"](call)
    for port in compiled.inputs if "samples" not in job else ():
        shape = port.get_partial_shape()
        free = [axis for axis in list(shape)[1:] if axis.is_dynamic]
        if free or port.get_element_type().type_name == "string":
            invoked = False  # no size that one could safely invent
            break
        sizes = [1 if axis.is_dynamic else axis.get_length() for axis in shape]
        feeds[port.get_any_name()] = np.zeros(sizes, port.get_element_type().to_dtype())
    if invoked and feeds:
        compiled(feeds)
    constants: dict[str, int] = {}
    operators: dict[str, int] = {}
    for node in model.get_ops():
        kind = node.get_type_name()
        operators[kind] = operators.get(kind, 0) + 1
        if kind == "Constant":
            kind = node.get_element_type()
            text = kind.type_name == "string"
            dtype = "string" if text else np.dtype(kind.to_dtype()).name
            constants[dtype] = constants.get(dtype, 0) + 1
    return {
        "inputs": [_described(port) for port in model.inputs],
        "outputs": [{**_described(p), "step": _step(p)} for p in model.outputs],
        "operators": operators,
        "constants": constants,
        "invoked": invoked,
    }


def _request(job: dict[str, Any]) -> Any:
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if job["threads"] is not None:
        options["INFERENCE_NUM_THREADS"] = job["threads"]
    core = _openvino().Core()
    return core.compile_model(job["path"], "CPU", options).create_infer_request()


def call(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the IR at `path` on the arrays of a job."""
    import time

    import numpy as np

    request = job["kept"](lambda: _request(job))
    start = time.perf_counter()
    found = request.infer(job["arrays"])
    arrays = {name: np.array(found[name]) for name in job["outputs"]}
    return {"seconds": time.perf_counter() - start, "arrays": arrays}


def _described(port: Any) -> dict[str, Any]:
    import numpy as np

    kind = port.get_element_type()
    text = kind.type_name == "string"
    return {
        "name": port.get_any_name(),
        "shape": [
            None if axis.is_dynamic else axis.get_length()
            for axis in port.get_partial_shape()
        ],
        "dtype": "string" if text else np.dtype(kind.to_dtype()).name,
    }


def _step(port: Any) -> float | None:
    """Returns the distance between two values of an output that was rounded last."""
    node = port.get_node().input_value(0).get_node()
    while node.get_type_name() in _MOVES:
        node = node.input_value(0).get_node()
    ends = [value.get_node() for value in node.input_values()[3:]]
    rounded = node.get_type_name() == "FakeQuantize"
    if not rounded or any(
        end.get_type_name() != "Constant" or end.data.size > 1 for end in ends
    ):
        return None
    low, high = (float(end.data.reshape(-1)[0]) for end in ends)
    return (high - low) / (node.get_attributes()["levels"] - 1)


def integers(job: dict[str, Any]) -> dict[str, Any]:
    """Tells which share of multiply-accumulates OpenVINO does on integers.

    The graph says so which it makes of the IR at `path` on this machine.
    """
    import math

    core = _openvino().Core()
    compiled = core.compile_model(core.read_model(job["path"]), "CPU", _F32)
    done = total = 0
    for node in compiled.get_runtime_model().get_ordered_ops():
        said = node.get_rt_info()
        kind = said["layerType"].astype(str)
        if kind not in _PRODUCTS:
            continue
        data, kernel = (_sizes(node.input_value(place)) for place in (0, 1))
        made = _sizes(node.output(0))
        if kind in ("FullyConnected", "MatMul"):
            products = math.prod(made) * data[-1]
        elif kind == "Deconvolution":
            products = math.prod(data) * math.prod(kernel) // data[1]
        else:
            products = math.prod(made) * math.prod(kernel) // made[1]
        total += products
        if said["runtimePrecision"].astype(str) in ("i8", "u8"):
            done += products
    return {"share": done / total if total else None}


def _sizes(port: Any) -> list[int]:
    """Returns a shape; sizes that are free are 1."""
    return [
        1 if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape()
    ]


JOBS = {
    "call": call,
    "convert": convert,
    "integers": integers,
    "open": probe,
    "probe": probe,
}
