"""The child process that runs converters: a crash here never kills the user.

Started by `converter.py` as a plain script, so it imports neither tfcompress nor
the user's `__main__`. Jobs come in as JSON lines, replies go out as JSON lines;
everything libraries print ends up on stderr, which the parent keeps as a log.
"""

import contextlib
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def warm(_: dict[str, Any]) -> dict[str, Any]:
    """Imports TensorFlow, which takes seconds, ahead of the first conversion."""
    import tensorflow as tf

    return {"tensorflow": tf.__version__}


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
        runner = interpreter.get_signature_runner()
        return answer(
            job, lambda batch: [runner(**batch)[name] for name in job["names"][1]]
        )
    interpreter.allocate_tensors()
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


def answer(job: dict[str, Any], call: Callable[[dict], list]) -> dict[str, Any]:
    """Calls a model on the samples of a job, as `_samples_worker.py` says."""
    script = Path(__file__).with_name("_samples_worker.py")
    return runpy.run_path(str(script))["answer"](job, call)


def run_saved_model(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the SavedModel at `path` and runs it on its samples, if there are any."""
    import tensorflow as tf

    signature = tf.saved_model.load(job["path"]).signatures["serving_default"]
    if "samples" not in job:
        return {"invoked": False}

    def call(batch: dict) -> list:
        feeds = {name: tf.constant(array) for name, array in batch.items()}
        outputs = signature(**feeds)
        return [outputs[name].numpy() for name in job["names"][1]]

    return answer(job, call)


def load_saved_model(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the SavedModel at `path`."""
    import tensorflow as tf

    return {"signatures": list(tf.saved_model.load(job["path"]).signatures)}


def read_hdf5(job: dict[str, Any]) -> dict[str, Any]:
    """Reads all that is in the HDF5 file at `path`, or in those of a .keras file."""
    import io
    import zipfile

    import h5py

    files: list[Any] = [job["path"]]
    if zipfile.is_zipfile(job["path"]):
        with zipfile.ZipFile(job["path"]) as archive:
            names = [name for name in archive.namelist() if name.endswith(".h5")]
            files = [io.BytesIO(archive.read(name)) for name in names]

    def look(_: str, node: Any) -> None:
        list(node.attrs.items())
        if isinstance(node, h5py.Dataset):
            node[()]

    for file in files:
        with h5py.File(file, "r") as opened:
            look("", opened)
            opened.visititems(look)
    return {}


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
    "warm": warm,
    "convert": convert,
    "probe": probe,
    "load_saved_model": load_saved_model,
    "run_saved_model": run_saved_model,
    "measure": measure,
    "read_hdf5": read_hdf5,
}


@contextlib.contextmanager
def limited(job: dict[str, Any]) -> Iterator[None]:
    """Inside, the process ends when it takes more than the job may.

    A file that nobody vouches for may hold a loop without an end, or ask for all memory
    that there is. Soft limits can be put back.
    """
    wanted = job.get("memory"), job.get("cpu_seconds")
    try:
        import resource
    except ImportError:  # Windows has no such limits
        wanted = None, None
    if wanted == (None, None):
        yield
        return
    with open("/proc/self/statm") if sys.platform == "linux" else open(os.devnull) as f:
        mapped = int((f.read() or "0").split()[0]) * resource.getpagesize()
    times = resource.getrusage(resource.RUSAGE_SELF)
    used = mapped, int(times.ru_utime + times.ru_stime) + 1
    kinds = resource.RLIMIT_AS, resource.RLIMIT_CPU
    before = [resource.getrlimit(kind) for kind in kinds]
    for kind, base, more, (_, hard) in zip(kinds, used, wanted, before):
        if more is not None:
            most = base + more
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        for kind, limits in zip(kinds, before):
            resource.setrlimit(kind, limits)


def main() -> None:
    """Answers jobs until the parent closes the pipe or goes away."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def answer(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    for line in sys.stdin:
        job = json.loads(line)
        answer({"id": job["id"], "accepted": True})
        try:
            # A format may bring jobs of its own, in a script beside its exporter.
            jobs = runpy.run_path(job["script"])["JOBS"] if "script" in job else JOBS
            with limited(job):
                reply = {"ok": True, **jobs[job["job"]](job)}
        except BaseException as error:
            traceback.print_exc()
            reply = {"ok": False, "type": type(error).__name__, "error": str(error)}
        sys.stderr.flush()
        answer({**reply, "id": job["id"]})


if __name__ == "__main__":
    main()
