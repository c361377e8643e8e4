"""Jobs of the child process for the "openvino" format."""

from typing import Any

# The default of some processors is bfloat16, which is another number.
_F32 = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the model `source` as OpenVINO IR, `output`, with the given names.

    A .tflite file has its inputs and outputs in the order of the names already; a
    SavedModel has their names.
    """
    import openvino

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
    openvino.save_model(model, job["output"], compress_to_fp16=job["float16"])
    return {}


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Describes the IR at `path` and runs it once on zeros."""
    import numpy as np
    import openvino

    core = openvino.Core()
    model = core.read_model(job["path"])
    compiled = core.compile_model(model, "CPU", _F32)
    feeds: dict[str, Any] = {}
    invoked = True
    for port in compiled.inputs:
        shape = port.get_partial_shape()
        free = [axis for axis in list(shape)[1:] if axis.is_dynamic]
        if free or port.get_element_type().type_name == "string":
            invoked = False  # no size that one could safely invent
            break
        sizes = [1 if axis.is_dynamic else axis.get_length() for axis in shape]
        feeds[port.get_any_name()] = np.zeros(sizes, port.get_element_type().to_dtype())
    if invoked:
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
        "outputs": [_described(port) for port in model.outputs],
        "operators": operators,
        "constants": constants,
        "invoked": invoked,
    }


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


JOBS = {"convert": convert, "probe": probe}
