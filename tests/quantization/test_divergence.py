"""verify names the first layer of a file that does not do what the model does."""

import pytest

import tfcompress
from tfcompress.exporters import Artifact
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.verification import layer_differences

pytestmark = pytest.mark.export


def test_nothing_differs_inside_a_good_file(shipped, digits):
    model = shipped("branches")
    found = layer_differences(model.phone, model.final, digits[0][:32])
    assert {("a",), ("b",)} <= {d.layers for d in found}
    assert len(found) >= 8
    assert max(d.max_steps for d in found) <= 1.001


def test_broken_weights_in_the_file_are_named(shipped, digits, tmp_path):
    model = shipped("residual")
    content = model.phone.path.read_bytes()
    kernel = next(
        tensor.constant
        for tensor, values in TFLiteFile(content).weights()
        if tensor.info.shape == (8, 3, 3, 8)
    )
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(content.replace(bytes(kernel), bytes(len(kernel))))
    result = tfcompress.verify(Artifact.read(broken), model.final, digits[0][:64])
    assert not result.passed
    named = result.failures[-1]
    # Rounded together with what it is fused with; `conv` before it is right.
    assert named.startswith("the first layer that differs is conv2: off by ")
    assert "conv + " not in named


def test_a_changed_model_is_named(shipped, digits):
    model = shipped("branches")
    changed = tfcompress.finalize(model.trained)
    layer = changed.get_layer("gate")
    layer.set_weights([0.5 * w for w in layer.get_weights()])
    result = tfcompress.verify(model.phone, changed, digits[0][:64])
    assert "first layer that differs is" in result.failures[-1]
    assert " gate: off by" in result.failures[-1]


def test_float_files_have_no_integer_tensors_to_compare(digits, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    phone = tfcompress.export(model, tmp_path / "float.tflite")
    assert layer_differences(phone, model, digits[0][:4, 0, :3, 0]) == []
