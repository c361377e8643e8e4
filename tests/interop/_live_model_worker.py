"""Hands a model of tf_keras, as it is, to from_tf_keras; prints how far outputs are."""

import numpy as np
import tf_keras

from tfcompress.interop import from_tf_keras

tf_keras.utils.set_random_seed(0)
old = tf_keras.Sequential(
    [
        tf_keras.layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, 3)),
        tf_keras.layers.BatchNormalization(),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(5),
    ]
)
x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
old.compile("adam", "mse")
old.fit(x, np.ones((8, 5)), verbose=0)
new = from_tf_keras(old)
print(np.abs(new.predict(x, verbose=0) - old.predict(x, verbose=0)).max())
