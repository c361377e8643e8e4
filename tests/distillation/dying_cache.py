"""Child process: caches a slow teacher, until somebody kills it."""

import sys
import time

import keras
import numpy as np
import tensorflow as tf

from tfcompress.distillation.teachers import cache as teacher_cache

BATCHES, SIZE = 40, 4


@keras.saving.register_keras_serializable("tests")
class Slow(keras.layers.Layer):
    """Writes a line for each batch it sees, and takes its time."""

    def __init__(self, log, seconds, **kwargs):
        super().__init__(**kwargs)
        self.log, self.seconds = log, seconds

    def call(self, inputs):
        def note(x):
            time.sleep(self.seconds)
            with open(self.log, "a") as file:
                file.write(f"{int(x[0, 0])}\n")
            return x

        outputs = tf.numpy_function(note, [inputs], tf.float32)
        outputs.set_shape(inputs.shape)
        return outputs


def make(log, seconds):
    """Returns the teacher and the data set, the same in each process."""
    keras.utils.set_random_seed(0)
    layers = [Slow(log, seconds), keras.layers.Dense(3)]
    x = np.random.default_rng(0).normal(size=(BATCHES * SIZE, 4)).astype("float32")
    x[:, 0] = np.repeat(np.arange(BATCHES), SIZE)
    teacher = keras.Sequential([keras.Input((4,)), *layers])
    return teacher, tf.data.Dataset.from_tensor_slices(x).batch(SIZE)


if __name__ == "__main__":
    _, path, log = sys.argv
    teacher_cache._COMMIT_EVERY = 5
    teacher_cache.cache_teacher(*make(log, 0.05), path)
