"""Jobs of the child process that load and run SavedModels."""

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

    return job["answer"](call)


def open_(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the SavedModel at `path`."""
    _signature(job)
    return {}


def _signature(job: dict[str, Any]) -> Any:
    import tensorflow as tf

    # The signature alone does not keep the variables alive.
    module = job["kept"](lambda: tf.saved_model.load(job["path"]))
    return module.signatures["serving_default"]


def call(job: dict[str, Any]) -> dict[str, Any]:
    """Calls the signature on the arrays of a job."""
    import time

    import tensorflow as tf

    signature = _signature(job)
    feeds = {name: tf.constant(array) for name, array in job["arrays"].items()}
    start = time.perf_counter()
    found = {name: value.numpy() for name, value in signature(**feeds).items()}
    return {
        "seconds": time.perf_counter() - start,
        "arrays": {name: found[name] for name in job["outputs"]},
    }


JOBS = {"call": call, "open": open_, "probe": probe}
