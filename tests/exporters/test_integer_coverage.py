"""Integer coverage counts work, not operators."""

import keras
import numpy as np
import pytest

from tfcompress import CompressionWarning, calibrate, finalize
from tfcompress.exporters import export
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tflite.flatbuffer import Operator, Tensor, TFLiteFile, work

L = keras.layers


def operator(name, shapes, output):
    tensors = [
        Tensor(TensorInfo("t", shape, "int8"), index, None, ())
        for index, shape in enumerate([*shapes, output])
    ]
    return Operator(name, False, tuple(tensors[:-1]), tuple(tensors[-1:]))


@pytest.mark.parametrize(
    ("name", "shapes", "output", "macs"),
    [
        ("FULLY_CONNECTED", [(2, 5), (3, 5), (3,)], (2, 3), 2 * 5 * 3),
        ("CONV_2D", [(1, 6, 6, 2), (4, 3, 3, 2)], (1, 4, 4, 4), 16 * 4 * 9 * 2),
        ("DEPTHWISE_CONV_2D", [(1, 6, 6, 4), (1, 3, 3, 4)], (1, 4, 4, 4), 64 * 9),
        (
            "TRANSPOSE_CONV",
            [(4,), (5, 2, 2, 3), (1, 4, 4, 3)],
            (1, 8, 8, 5),
            16 * 3 * 5 * 4,
        ),
        (
            "CONV_3D",
            [(1, 4, 4, 4, 2), (3, 3, 3, 2, 5)],
            (1, 2, 2, 2, 5),
            40 * 27 * 2,
        ),
        ("BATCH_MATMUL", [(1, 2, 5, 3), (1, 2, 3, 7)], (1, 2, 5, 7), 2 * 5 * 3 * 7),
        ("BATCH_MATMUL", [(1, 2, 5, 3), (1, 2, 7, 3)], (1, 2, 5, 7), 2 * 5 * 3 * 7),
        ("ADD", [(1, 5), (1, 5)], (1, 5), 5),
        ("TANH", [(None, 5)], (None, 5), 5),
    ],
)
def test_work(name, shapes, output, macs):
    assert work(operator(name, shapes, output)) == macs


def test_work_of_a_file_is_the_layers(tmp_path):
    model = keras.Sequential(
        [L.Input((9, 8, 3)), L.Conv2D(5, 3), L.Flatten(), L.Dense(7)]
    )
    artifact = export(model, tmp_path / "m.tflite")
    counts = {op.name: work(op) for op in TFLiteFile.open(artifact.path).operators}
    assert counts["CONV_2D"] == 7 * 6 * 5 * 27
    assert counts["FULLY_CONNECTED"] == 7 * 6 * 5 * 7


def test_a_convolution_in_float_outweighs_many_small_operators(tmp_path):
    keras.utils.set_random_seed(0)
    video = keras.Input((4, 8, 8, 2), name="video")
    x = L.Conv3D(4, 3, padding="same", name="conv")(video)
    x = L.Dense(4)(L.Flatten()(x))
    for _ in range(6):
        x = L.Dense(4, activation="relu")(x)
    data = np.random.default_rng(0).random((16, 4, 8, 8, 2)).astype("float32")
    with pytest.warns(CompressionWarning, match="conv"):
        quantized = calibrate(keras.Model(video, x), data)
    artifact = export(finalize(quantized), tmp_path / "m.tflite")
    conv, rest = 4 * 4 * 64 * 54, 1024 * 4 + 6 * 16
    assert artifact.integer_coverage == pytest.approx(rest / (conv + rest), abs=0.02)
