"""The jobs of the child process for float .tflite files; see `child/_worker.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Not among the quantizer's ready recipes.
_FLOAT16 = {
    "regex": ".*",
    "operation": "*",
    "algorithm_key": "float_casting",
    "op_config": {
        "weight_tensor_config": {
            "num_bits": 16,
            "symmetric": True,
            "granularity": "TENSORWISE",
            "dtype": "FLOAT",
        },
        "compute_precision": "FLOAT",
        "explicit_dequantize": True,
        "skip_checks": False,
        "min_weight_elements": 0,
    },
}


def quantize(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the bytes of the .tflite file at `path`, rounded as `recipe` says.

    The job's `arrays` are samples, a column for each input by its number.
    """
    import numpy as np
    from litert_quantizer import quantizer, recipe

    name = job["recipe"]
    wanted = [_FLOAT16] if name == "float16" else getattr(recipe, name)()
    if name.startswith("static") and job["float_ports"]:
        ports = [{**wanted[0], "operation": kind} for kind in ("INPUT", "OUTPUT")]
        wanted += [{**port, "algorithm_key": "no_quantize"} for port in ports]
    content = _prepared(Path(job["path"]).read_bytes(), job)
    made = quantizer.Quantizer(content, wanted)
    ranges = _ranges(content, wanted, job) if made.need_calibration else None
    result = made.quantize(ranges, enable_progress_report=False)
    return {"arrays": {"content": np.frombuffer(result.quantized_model, "uint8")}}


def _ranges(content: bytearray, wanted: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Returns the least and the largest value of each tensor over all samples.

    The quantizer's own way is a moving average over calls, which cuts off what is rare
    and depends on the order of the samples.
    """
    from litert_quantizer import calibrator, recipe_manager
    from litert_quantizer.utils import qsv_utils

    recipes = recipe_manager.RecipeManager()
    recipes.load_quantization_recipe(wanted)
    found = calibrator.Calibrator(
        content, num_threads=1, qsv_update_func=qsv_utils.min_max_update
    )
    (key, *_) = found.get_signature_list()
    found.calibrate({key: list(_calls(job))}, recipes)
    return found.get_model_qsvs()


def _calls(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import numpy as np

    columns = [job["arrays"][str(place)] for place in range(len(job["inputs"]))]
    size = job["batch_size"]
    for start in range(0, len(columns[0]), size):
        parts = [column[start : start + size] for column in columns]
        missing = size - len(parts[0])
        # Said twice, a sample changes no least and no largest value.
        whole = [np.concatenate([part, part[[-1] * missing]]) for part in parts]
        yield dict(zip(job["inputs"], whole))


def _prepared(content: bytes, job: dict[str, Any]) -> bytearray:
    """Returns the file with a signature, and a name for each tensor of its own.

    The quantizer asks for both, and runtimes do not: old converters write none.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    seen = {tensor.name for tensor in tensors}
    if model.signatureDefs and len(seen) == len(tensors):
        return bytearray(content)
    if not model.signatureDefs:
        graph, signature = model.subgraphs[0], schema.SignatureDefT()
        signature.signatureKey = b"serving_default"
        signature.inputs = _named(schema, job["inputs"], graph.inputs)
        signature.outputs = _named(schema, job["outputs"], graph.outputs)
        model.signatureDefs = [signature]
    if len(seen) < len(tensors):
        for number, tensor in enumerate(tensors):
            tensor.name = (tensor.name or b"tensor") + f";{number}".encode()
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytearray(builder.Output())


def _named(schema: Any, names: list[str], tensors: Any) -> list[Any]:
    maps = []
    for name, index in zip(names, tensors):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), int(index)
        maps.append(entry)
    return maps


JOBS = {"quantize": quantize}
