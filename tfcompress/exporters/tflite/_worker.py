"""Jobs of the child process that write and run .tflite files."""

from collections.abc import Iterator
from typing import Any


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Converts the SavedModel at `saved_model` to the .tflite file `output`."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        job["saved_model"], signature_keys=["serving_default"]
    )
    if job["optimize"]:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if job.get("sparse"):
        converter.optimizations = [
            *(converter.optimizations or []),
            tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
        ]
    if job["float16"]:
        converter.target_spec.supported_types = [tf.float16]
    if job["calibration"]:
        converter.representative_dataset = lambda: _batches(job)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if job["io_dtype"] != "float32":
        converter.inference_input_type = tf.as_dtype(job["io_dtype"])
        converter.inference_output_type = tf.as_dtype(job["io_dtype"])
    content = converter.convert()
    with open(job["output"], "wb") as file:
        file.write(content)
    return {}


def _batches(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import numpy as np

    with np.load(job["calibration"]) as stored:
        # Numbered, because an input's name need not be a valid file name.
        columns = {
            name: stored[f"input_{position}"]
            for position, name in enumerate(job["inputs"])
        }
    size = job["batch_size"] or 1
    count = min(len(column) for column in columns.values())
    for start in range(0, count - size + 1, size):
        yield {name: column[start : start + size] for name, column in columns.items()}


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the .tflite file at `path` and runs it on its samples, or once on zeros."""
    import numpy as np

    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_path=job["path"], num_threads=1)
    if "samples" in job:
        runner = interpreter.get_signature_runner(job.get("signature"))
        return job["answer"](
            lambda batch: [runner(**batch)[name] for name in job["names"][1]]
        )
    interpreter.allocate_tensors()
    names = list(interpreter.get_signature_list())
    if len(names) > 1:
        return {"invoked": _signatures_on_zeros(interpreter, names)}
    details = interpreter.get_input_details()
    # A free dimension other than the batch has no size one could safely invent.
    free = any(size < 0 for d in details for size in d["shape_signature"][1:])
    if free or any(d["dtype"] == np.bytes_ for d in details):
        return {"invoked": False}
    for d in details:
        interpreter.set_tensor(d["index"], np.zeros(d["shape"], d["dtype"]))
    interpreter.invoke()
    for d in interpreter.get_output_details():
        interpreter.get_tensor(d["index"])
    return {"invoked": True}


def _signatures_on_zeros(interpreter: Any, names: list[str]) -> bool:
    """Calls each of several signatures on zeros; returns whether all could be."""
    import numpy as np

    ran = True
    for name in names:
        runner = interpreter.get_signature_runner(name)
        details = runner.get_input_details()
        free = any(s < 0 for d in details.values() for s in d["shape_signature"][1:])
        if free or any(d["dtype"] == np.bytes_ for d in details.values()):
            ran = False
            continue
        runner(**{n: np.zeros(d["shape"], d["dtype"]) for n, d in details.items()})
    return ran


def call(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the .tflite file at `path` on the arrays of a job."""
    import time

    interpreter = job["kept"](lambda: _opened(job))
    if "signature" in job:
        runner = interpreter.get_signature_runner(job["signature"])
        start = time.perf_counter()
        found = runner(**job["arrays"])
        return {"seconds": time.perf_counter() - start, "arrays": found}
    shapes = {d["index"]: tuple(d["shape"]) for d in interpreter.get_input_details()}
    inputs = job["inputs_by_name"]
    changed = [n for n, a in job["arrays"].items() if shapes[inputs[n]] != a.shape]
    for name in changed:
        interpreter.resize_tensor_input(inputs[name], job["arrays"][name].shape)
    if changed:
        interpreter.allocate_tensors()
    start = time.perf_counter()
    for name, array in job["arrays"].items():
        interpreter.set_tensor(inputs[name], array)
    interpreter.invoke()
    outputs = job["outputs_by_name"]
    found = {name: interpreter.get_tensor(index) for name, index in outputs.items()}
    return {"seconds": time.perf_counter() - start, "arrays": found}


def _opened(job: dict[str, Any]) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_path=job["path"], num_threads=job["threads"])
    interpreter.allocate_tensors()
    if "signature" not in job:
        _check_signature(interpreter, job)
    return interpreter


def _check_signature(interpreter: Any, job: dict[str, Any]) -> None:
    # A signature may name any tensors; only those of the graph hold values.
    for named, details in (
        (job["inputs_by_name"], interpreter.get_input_details()),
        (job["outputs_by_name"], interpreter.get_output_details()),
    ):
        if not {d["index"] for d in details}.issuperset(named.values()):
            raise ValueError("its signature names tensors that are not the graph's")


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the .tflite file at `path` on random inputs; writes `outputs`, times it."""
    import time

    import numpy as np

    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_path=job["path"], num_threads=1)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for d in interpreter.get_input_details():
        values = generator.uniform(0, 1, d["shape"])
        if np.issubdtype(d["dtype"], np.integer):
            values = np.round(100 * values)
        interpreter.set_tensor(d["index"], values.astype(d["dtype"]))
    times = []
    for _ in range(30):
        start = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - start)
    outputs = {
        str(position): interpreter.get_tensor(d["index"])
        for position, d in enumerate(interpreter.get_output_details())
    }
    np.savez(job["outputs"], **outputs)
    return {"latency": 1000 * sorted(times)[len(times) // 2]}


JOBS = {
    "call": call,
    "convert": convert,
    "measure": measure,
    "open": probe,
    "probe": probe,
}
