"""Operations that LiteRT does not have are named, with the layers they are from."""

import keras
import numpy as np
import pytest
from keras import ops

from tfcompress import doctor, export
from tfcompress.core.errors import ExportError

L = keras.layers
pytestmark = pytest.mark.export


@keras.saving.register_keras_serializable("tests_operations")
class Sampling(L.Layer):
    """The sampling of a variational autoencoder, as tutorials write it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, mean):
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + noise


def sampled():
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, L.Dense(2)(Sampling(name="sampling")(inputs)))


def pooled():
    inputs = keras.Input((4, 4, 4, 1), name="x")
    return keras.Model(inputs, L.MaxPooling3D(2, name="pool")(inputs))


@pytest.mark.parametrize(("make", "name"), [(sampled, "sampling"), (pooled, "pool")])
def test_doctor_and_export_agree_and_name_the_layer(make, name, tmp_path):
    model = make()
    diagnosis = doctor(model, "tflite", trial=False)
    assert not diagnosis.deployable
    assert name in [finding.layer for finding in diagnosis.findings]
    with pytest.raises(ExportError, match=rf"cannot run\..*'{name}'"):
        export(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
    assert np.isfinite(model(np.zeros((1, *model.input_shape[1:]), "float32"))).all()
