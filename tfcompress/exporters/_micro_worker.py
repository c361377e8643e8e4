"""Jobs of the child process for the "micro" format."""

from pathlib import Path
from typing import Any

import numpy as np

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
            limits = np.iinfo(detail["dtype"])
            values = generator.integers(limits.min, limits.max + 1, detail["shape"])
            values = values.astype(detail["dtype"])
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
    """Returns an interpreter and the least arena, a multiple of 16 bytes."""
    refused, fits = 0, 4096
    while (interpreter := _made(content, fits)) is None:
        refused, fits = fits, 2 * fits
        if fits > _LARGEST_ARENA:
            _made(content, fits, loud=True)
    while fits - refused > 16:
        middle = (refused + fits) // 2 // 16 * 16
        smaller = _made(content, middle)
        if smaller is None:
            refused = middle
        else:
            interpreter, fits = smaller, middle
    return interpreter, fits


def _made(content: bytes, arena: int, loud: bool = False) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    try:
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
        interpreter.invoke()
    except RuntimeError:
        if loud:
            raise
        return None
    return interpreter


JOBS = {"probe": probe}
