"""What each rewrite of a model costs, measured in this process; a part of rewrite_cost.

    python benchmarks/_rewrites.py {ours,tfmot} MODEL

Prints one line of JSON: CPU seconds by call. Each call runs twice, on a new model, and
the second run counts: the first loads what the others find loaded.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

SIDE, MODEL = sys.argv[1:3]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
if SIDE == "tfmot":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras
else:
    import keras

    import tfcompress

layers = keras.layers
SAMPLES, BATCH = 64, 16


def encoder():
    ids = keras.Input((32,), dtype="int32", name="ids")
    x = layers.Embedding(1000, 64)(ids)
    attended = layers.MultiHeadAttention(4, 16)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    hidden = layers.Dense(64)(layers.Dense(192, "gelu")(x))
    x = layers.LayerNormalization()(layers.Add()([x, hidden]))
    return keras.Model(ids, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def lstm():
    inputs = keras.Input((28, 28), name="x")
    return keras.Model(inputs, layers.Dense(10)(layers.LSTM(64)(inputs)))


def mobilenet():
    return keras.applications.MobileNetV2((96, 96, 3), 0.35, weights=None, classes=10)


MODELS = {"encoder": encoder, "lstm": lstm, "mobilenet": mobilenet}


def samples_for(model):
    (given,) = model.inputs
    rng, shape = np.random.default_rng(0), (SAMPLES, *given.shape[1:])
    if MODEL == "encoder":
        return rng.integers(0, 1000, shape)
    return rng.uniform(-1, 1, shape).astype("float32")


def first_step(model, samples):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4), loss)
    x = samples[:BATCH]
    model.fit(x, np.zeros(len(x), int), batch_size=BATCH, verbose=0)


def main():
    seconds = {}

    def timed(name, function):
        start = time.process_time()
        made = function()
        seconds[name] = time.process_time() - start
        return made

    for _ in range(2):
        plain, model = MODELS[MODEL](), MODELS[MODEL]()
        samples = samples_for(model)
        timed("plain: first step of fit", lambda p=plain, s=samples: first_step(p, s))
        if SIDE == "tfmot":
            quantize = tfmot.quantization.keras.quantize_model
        else:
            quantize = tfcompress.quantize_aware
        aware = timed("quantize_aware", lambda m=model, q=quantize: q(m))
        timed("first step of fit", lambda a=aware, s=samples: first_step(a, s))
        if SIDE == "ours":
            ours(model, aware, samples, timed)
    print(json.dumps(seconds))


def ours(model, aware, samples, timed):
    final = timed("finalize", lambda: tfcompress.finalize(aware))
    timed("doctor", lambda: tfcompress.doctor(model, "tflite", "w8a8", trial=False))
    timed("calibrate", lambda: tfcompress.calibrate(model, samples))
    with tempfile.TemporaryDirectory() as folder:
        # Without the child process that converts: that work is no rewrite.
        timed("export", lambda: tfcompress.export(final, Path(folder) / "m.tflite"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
