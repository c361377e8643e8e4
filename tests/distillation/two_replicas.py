"""Child process: the same fit on one device and on two replicas, as JSON."""

import keras
import numpy as np
import tensorflow as tf

from tests.distillation.conftest import dense_model
from tests.distillation.test_distiller import ScalarLoss, compiled_loss
from tests.replicas import answer
from tfcompress.distillation.distiller import Distiller


def train(strategy):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 4)).astype("float32")
    y = generator.integers(0, 3, 32)
    weight = np.linspace(0, 2, 32).astype("float32")
    with strategy.scope():
        losses = [
            keras.distillation.LogitsDistillation(2.0),
            keras.distillation.FeatureDistillation("mse", "hidden", "hidden"),
            ScalarLoss(),
        ]
        distiller = Distiller(dense_model(6, 1), dense_model(6, 2), losses)
        distiller.compile(keras.optimizers.SGD(0.1), compiled_loss())
    data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(16)
    history = distiller.fit(data, epochs=2, verbose=0).history
    return {
        "replicas": strategy.num_replicas_in_sync,
        "weights": [w.tolist() for w in distiller.student.get_weights()],
        "history": history,
    }


if __name__ == "__main__":
    answer(train)
