"""Jobs of the child process for the "micro" format."""

import hashlib
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_SAMPLES = 8
_LARGEST_ARENA = 1 << 28


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the .tflite file at `path` in tflite-micro on random integers.

    Returns the least arena in bytes that it runs with, and by how many integers it
    differs at most from LiteRT's reference kernels.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    content = Path(job["path"]).read_bytes()
    micro, arena = _smallest(content)
    reference = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        num_threads=1,
    )
    reference.allocate_tensors()
    inputs, outputs = reference.get_input_details(), reference.get_output_details()
    generator = np.random.default_rng(0)
    difference = 0
    for _ in range(_SAMPLES if job.get("compare", True) else 1):
        for position, detail in enumerate(inputs):
            values = _random(generator, detail)
            reference.set_tensor(detail["index"], values)
            micro.set_input(values, position)
        reference.invoke()
        micro.invoke()
        for position, detail in enumerate(outputs):
            wanted = reference.get_tensor(detail["index"]).astype("int64")
            got = micro.get_output(position).astype("int64")
            difference = max(difference, int(np.abs(got - wanted).max(initial=0)))
    return {"arena": arena, "difference": difference}


def _smallest(content: bytes) -> tuple[Any, int]:
    """Returns an interpreter and the least arena, a multiple of 16 bytes.

    The model gives the same outputs with it as with one four times as large.

    Raises:
        RuntimeError: if the model does not run whatever the arena.
    """
    refused, fits = 0, 4096
    while (wanted := _tried(content, 4 * fits)) is None or (
        _tried(content, fits) != wanted
    ):
        refused, fits = fits, 2 * fits
        if fits > _LARGEST_ARENA:
            interpreter = _made(content, fits)  # what it says is the reason
            interpreter.invoke()
            raise RuntimeError("tflite-micro gives no answer that stays the same")
    while fits - refused > 16:
        middle = (refused + fits) // 2 // 16 * 16
        if _tried(content, middle) == wanted:
            fits = middle
        else:
            refused = middle
    return _made(content, fits), fits


def _tried(content: bytes, arena: int) -> bytes | None:
    """Returns a fingerprint of the model's outputs with an arena; None without any.

    With an arena a little too small tflite-micro writes behind its end or reads what it
    could not allocate, and the process ends. So each try is a process of its own.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            digest = _fingerprint(content, _made(content, arena))
            os.write(writing, digest)
        finally:
            os._exit(0)  # never back into the loop that answers jobs
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        digest = answer.read()
    os.waitpid(child, 0)
    return digest or None


def _fingerprint(content: bytes, interpreter: Any) -> bytes:
    """Returns a hash of what an interpreter gives for random integers."""
    generator, digest = np.random.default_rng(1), hashlib.sha256()
    file = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    for position in range(file.InputsLength()):
        detail = interpreter.get_input_details(position)
        interpreter.set_input(_random(generator, detail), position)
    interpreter.invoke()
    for position in range(file.OutputsLength()):
        digest.update(interpreter.get_output(position).tobytes())
    return digest.digest()


def _random(generator: np.random.Generator, detail: dict[str, Any]) -> np.ndarray:
    """Returns any bytes for a quantized input; 0 or 1 for the numbers of a table."""
    low, high = 0, 2
    if np.dtype(detail["dtype"]).itemsize < 4:
        limits = np.iinfo(detail["dtype"])
        low, high = limits.min, limits.max + 1
    return generator.integers(low, high, detail["shape"]).astype(detail["dtype"])


def _made(content: bytes, arena: int) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_bytes(content, arena_size=arena)


def call(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the file at `path` on the arrays of a job."""
    import time
    from pathlib import Path

    path, arena = Path(job["path"]), job["arena"]
    interpreter = job["kept"](lambda: _made(path.read_bytes(), arena))
    start = time.perf_counter()
    for position, name in enumerate(job["inputs"]):
        interpreter.set_input(job["arrays"][name], position)
    interpreter.invoke()
    arrays = {
        name: np.array(interpreter.get_output(position))
        for position, name in enumerate(job["outputs"])
    }
    return {"seconds": time.perf_counter() - start, "arrays": arrays}


JOBS = {"call": call, "open": probe, "probe": probe}
