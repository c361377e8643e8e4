"""How the jobs of the child process read samples and write outputs."""

from collections.abc import Callable
from typing import Any


def answer(
    job: dict[str, Any], call: Callable[[dict[str, Any]], list[Any]]
) -> dict[str, Any]:
    """Calls a model on the samples of a job, some rows at a time; writes its outputs.

    Args:
        job: `samples` and `outputs` (.npz files, arrays by their position), `names` (of
            inputs and outputs), `rows` (samples of one call).
        call: runs the model on arrays by name, returns outputs in the order of names.
    """
    import numpy as np

    inputs, _ = job["names"]
    with np.load(job["samples"]) as stored:
        columns = {name: stored[str(i)] for i, name in enumerate(inputs)}
    count, parts = len(next(iter(columns.values()))), []
    for start in range(0, count, job["rows"]):
        batch = {
            n: column[start : start + job["rows"]] for n, column in columns.items()
        }
        parts.append([np.array(output) for output in call(batch)])
    outputs = [
        np.stack(column) if np.ndim(column[0]) == 0 else np.concatenate(column)
        for column in zip(*parts)
    ]
    # NumPy's files hold no bfloat16.
    outputs = [
        o.astype("float32") if o.dtype.name == "bfloat16" else o for o in outputs
    ]
    # `tfcompress.core.samples.texts` would bring Keras into this process.
    plain = [
        np.array([text.decode() for text in o.reshape(-1)], "U").reshape(o.shape)
        if o.dtype == object
        else o
        for o in outputs
    ]
    numbered: dict[str, Any] = {str(i): output for i, output in enumerate(plain)}
    np.savez(job["outputs"], **numbered)
    return {"invoked": True}
