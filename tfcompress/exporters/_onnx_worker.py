"""Jobs of the child process for the "onnx" format."""

import sys
from typing import Any


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Converts the SavedModel at `saved_model` to the ONNX file `output`."""
    from tf2onnx import convert

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


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the ONNX file at `path` and runs it once on zeros."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        job["path"], options, providers=["CPUExecutionProvider"]
    )
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


JOBS = {"convert": convert, "probe": probe}
