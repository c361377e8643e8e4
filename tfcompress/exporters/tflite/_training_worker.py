"""Jobs of the child process for files that train their last layer on the device."""

from __future__ import annotations

from typing import Any


def write_head(job: dict[str, Any]) -> dict[str, Any]:
    """Converts a Dense layer with the signatures infer, train, save and restore.

    The gradient of one layer is written out, so the file has built-in operators alone:
    of `p = f(h W + b)`, `dL/dW = h^T g` and `dL/db = sum(g)`, where `g` is `(p - y)`,
    over the samples of a batch, for a softmax with cross-entropy, and `2 (p - y)`, over
    all values, for the mean squared error.
    """
    import tempfile

    import numpy as np
    import tensorflow as tf

    with np.load(job["weights"]) as stored:
        first = {name: stored[name] for name in ("kernel", "bias")}
    size, units = first["kernel"].shape
    softmax, loss, rows = job["softmax"], job["loss"], job["rows"]
    sparse = loss == "sparse_categorical_crossentropy"

    class Head(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(first["kernel"], name="kernel")
            self.bias = tf.Variable(first["bias"], name="bias")

        def logits(self, features: Any) -> Any:
            return tf.matmul(features, self.kernel) + self.bias

        def infer(self, features: Any) -> Any:
            made = self.logits(features)
            return {job["name"]: tf.nn.softmax(made) if softmax else made}

        def train(self, features: Any, target: Any, learning_rate: Any) -> Any:
            made = self.logits(features)
            if loss == "mean_squared_error":
                apart = made - target
                value = tf.reduce_mean(apart * apart)
                gradient = apart * (2.0 / (rows * units))
            else:
                wanted = tf.one_hot(target, units) if sparse else target
                value = -tf.reduce_sum(wanted * tf.nn.log_softmax(made)) / rows
                gradient = (tf.nn.softmax(made) - wanted) / rows
            step = tf.matmul(features, gradient, transpose_a=True)
            self.kernel.assign_sub(learning_rate * step)
            self.bias.assign_sub(learning_rate * tf.reduce_sum(gradient, 0))
            return {"loss": value}

        def save(self) -> Any:
            return {"kernel": self.kernel.read_value(), "bias": self.bias.read_value()}

        def restore(self, kernel: Any, bias: Any) -> Any:
            self.kernel.assign(kernel)
            self.bias.assign(bias)
            return {"restored": tf.reduce_sum(bias)}

    def spec(name: str, *shape: Any, dtype: Any = tf.float32) -> Any:
        return tf.TensorSpec(shape, dtype, name)

    head = Head()
    target = (
        spec("target", rows, dtype=tf.int32) if sparse else spec("target", rows, units)
    )
    signatures = {
        "infer": [spec(job["features"], job["infer_rows"], size)],
        "train": [spec(job["features"], rows, size), target, spec("learning_rate")],
        "save": [],
        "restore": [spec("kernel", size, units), spec("bias", units)],
    }
    functions = {
        name: tf.function(getattr(head, name)).get_concrete_function(*specs)
        for name, specs in signatures.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(head, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.experimental_enable_resource_variables = True
        content = converter.convert()
    with open(job["output"], "wb") as file:
        file.write(content)
    return {}


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Trains with the file at `path`; writes what it computes before and after."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    def opened() -> Any:
        made = Interpreter(model_path=job["path"], num_threads=1)
        made.allocate_tensors()
        return made.get_signature_runner

    with np.load(job["samples"]) as stored:
        arrays = dict(stored)
    given = {
        side: {n: arrays[f"{side}_{i}"] for i, n in enumerate(job["names"])}
        for side in ("infer", "train")
    }
    first, output = opened(), job["output"]
    found = {"before": first("infer")(**given["infer"])[output]}
    rate = np.float32(job["learning_rate"])
    losses = [
        first("train")(**given["train"], target=arrays["target"], learning_rate=rate)
        for _ in range(job["steps"])
    ]
    found["losses"] = np.array([one["loss"] for one in losses])
    saved = first("save")()
    found |= saved
    found["after"] = first("infer")(**given["infer"])[output]
    second = opened()
    second("restore")(**saved)
    found["restored"] = second("infer")(**given["infer"])[output]
    np.savez(job["outputs"], **found)
    return {}


JOBS = {"write_head": write_head, "train": train}
