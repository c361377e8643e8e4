"""Jobs of the child process that load and run SavedModels."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any


def probe(job: dict[str, Any]) -> dict[str, Any]:
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


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the SavedModel at `path`."""
    import tensorflow as tf

    return {"signatures": list(tf.saved_model.load(job["path"]).signatures)}


def answer(job: dict[str, Any], call: Callable[[dict], list]) -> dict[str, Any]:
    """Calls a model on the samples of a job, as `child/_samples_worker.py` says."""
    script = Path(__file__).parents[2] / "child" / "_samples_worker.py"
    return runpy.run_path(str(script))["answer"](job, call)


JOBS = {"load": load, "probe": probe}
