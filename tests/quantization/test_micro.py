"""Small networks in tflite-micro: its numbers against those of the graph.

More of them are in tests/exporters/test_same_models.py.
"""

import keras
import numpy as np
import pytest

import tfcompress
from tests.quantization.conftest import as_numpy
from tests.quantization.test_architectures import unet
from tests.quantization.test_recurrent import MODELS

pytestmark = [pytest.mark.export, pytest.mark.slow]


@pytest.mark.parametrize("build", [unet, MODELS["simple"]])
def test_microcontrollers_compute_what_the_graph_does(build, tmp_path):
    pytest.importorskip("tflite_micro")
    keras.utils.set_random_seed(1)
    aware = tfcompress.quantize_aware(build())
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(16, *aware.input_shape[1:])).astype("float32")
    aware(samples, training=True)
    final = tfcompress.finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "micro", format="micro")
    (output,) = artifact.outputs
    got = as_numpy(tfcompress.load(artifact)(samples))
    assert np.abs(got - as_numpy(final(samples))).max() <= 1.001 * output.scale
