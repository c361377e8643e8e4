"""Child process: the same clustered fit on one device and on two replicas, as JSON."""

import keras
import numpy as np
import tensorflow as tf

import tfcompress
from tests.replicas import answer


def train(strategy):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 12)).astype("float32")
    y = generator.integers(0, 3, 32)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(16, activation="relu"),
                keras.layers.Dense(3),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    prune = tfcompress.PolynomialSparsity(0.0, 0.5, frequency=2)
    callbacks = [
        tfcompress.PruneWeights(prune),
        tfcompress.ClusterWeights(5, begin_step=0.8),
    ]
    model.fit(data, epochs=4, verbose=0, callbacks=callbacks)
    copies = [
        [copy.numpy().tolist() for copy in strategy.experimental_local_results(kernel)]
        for kernel in (layer.kernel.value for layer in model.layers)
    ]
    return {"replicas": strategy.num_replicas_in_sync, "kernels": copies}


if __name__ == "__main__":
    answer(train)
