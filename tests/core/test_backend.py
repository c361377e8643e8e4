"""On another backend of Keras: an error that says so, before anything is done."""

import os
import subprocess
import sys

import pytest

# OpenVINO is the one other backend whose package the tests install.
_PROGRAM = """
import keras, tfcompress
from tfcompress.core.errors import InvalidArgumentError

assert keras.backend.backend() == "openvino"
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
doors = {
    "export a model": lambda: tfcompress.export(model, "model.tflite"),
    "make the model quantization-aware": lambda: tfcompress.quantize_aware(model),
    "distil": lambda: tfcompress.Distiller(model, model, "logits"),
    "compress a model": lambda: tfcompress.compress(model, None, None, None),
}
callback = tfcompress.PruneWeights(0.5)
callback.set_model(model)
doors["use PruneWeights in fit"] = callback.on_train_begin
for what, door in doors.items():
    try:
        door()
    except InvalidArgumentError as error:
        assert what in str(error) and "KERAS_BACKEND" in str(error), error
    else:
        raise AssertionError(what)
"""


def test_what_needs_tensorflow_refuses_another_backend(tmp_path):
    pytest.importorskip("openvino")
    environment = {**os.environ, "KERAS_BACKEND": "openvino"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
