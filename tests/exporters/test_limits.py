"""What the formats' tables say of layers is what happens."""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.core.errors import ExportError
from tfcompress.exporters import KerasRunner, export, load
from tfcompress.exporters.artifact import get_exporter

L = keras.layers
pytestmark = [pytest.mark.export, pytest.mark.slow]

VOLUME = (4, 4, 4, 2)
LAYERS = {
    "AdaptiveAveragePooling3D": (VOLUME, {"output_size": 2}),
    "AdaptiveMaxPooling3D": (VOLUME, {"output_size": 2}),
    "AveragePooling3D": (VOLUME, {"pool_size": 2}),
    "Conv3D": (VOLUME, {"filters": 2, "kernel_size": 2}),
    "ConvLSTM1D": ((3, 6, 2), {"filters": 3, "kernel_size": 2}),
    "ConvLSTM2D": ((3, 5, 5, 2), {"filters": 3, "kernel_size": 2}),
    "ConvLSTM3D": ((3, *VOLUME), {"filters": 3, "kernel_size": 2}),
    "Discretization": ((4,), {"bin_boundaries": [0.0, 0.5]}),
    "GRU": ((5, 3), {"units": 4}),
    "LSTM": ((5, 3), {"units": 4}),
    "MaxPooling3D": (VOLUME, {"pool_size": 2}),
    "MelSpectrogram": (
        (128,),
        {"fft_length": 32, "sequence_stride": 16, "num_mel_bins": 8},
    ),
    "SimpleRNN": ((5, 3), {"units": 4}),
}
SAID = [
    (format, name, said)
    for format in ("tflite", "onnx", "openvino")
    for name, said in get_exporter(format).limits.layers.items()
]


def model_of(name, **options):
    shape, arguments = LAYERS[name]
    inputs = keras.Input(shape, name="x")
    layer = getattr(L, name)(**arguments, **options, name="layer")
    return keras.Model(inputs, L.Flatten(name="flat")(layer(inputs)))


def error_of(artifact, model):
    x = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:]))
    return np.abs(load(artifact, threads=1)(x) - KerasRunner(model)(x)).max()


@pytest.mark.parametrize(("format", "name", "said"), SAID)
def test_what_is_said_of_a_layer(format, name, said, tmp_path):
    if format != "tflite":
        pytest.importorskip({"onnx": "onnxruntime"}.get(format, format))
    model = model_of(name)
    path = tmp_path / {"tflite": "m.tflite", "onnx": "m.onnx"}.get(format, "m")
    if said == "stays float in a quantized model":
        x = np.random.default_rng(0).normal(size=(8, *model.input_shape[1:]))
        with pytest.warns(tfcompress.CompressionWarning, match=name):
            final = tfcompress.finalize(tfcompress.calibrate(model, x, "w8a8"))
        runner = load(export(final, path, format=format, batch_size=1), threads=1)
        kinds = {
            info["layerType"].astype(str): info["runtimePrecision"].astype(str)
            for node in runner.compiled.get_runtime_model().get_ops()
            for info in [node.get_rt_info()]
        }
        assert kinds["Convolution"] == "f32"
        return
    if "batch_size=1" in said:
        assert error_of(export(model, path, format=format), model) <= 1e-5
        path = tmp_path / "free.tflite"
        free = {"batch_size": None}
    else:
        free = {}
    with pytest.raises(ExportError, match=r"What to do: .*(batch_size=1|replace)"):
        export(model, path, format=format, **free)
    if "unroll" in said:
        unrolled = model_of(name, unroll=True)
        artifact = export(unrolled, path, format=format, **free)
        assert error_of(artifact, unrolled) <= 1e-5
