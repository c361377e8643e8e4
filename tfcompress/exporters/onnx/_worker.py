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


JOBS = {"call": call, "convert": convert, "open": probe, "probe": probe}
