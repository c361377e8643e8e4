"""The TFMOT side of deep_compression.py, in a process of its own (Keras 2).

Reads one JSON job a line from stdin and answers with one JSON line: accuracy and bytes
of the int8 .tflite after pruning, clustering that keeps the zeros, and PCQAT.
"""

import math
import os
import zlib

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from _jobs import BATCH, answer_jobs, images
from _models import MODELS

cluster = tfmot.clustering.keras


def fitted(model, data, epochs, rate, *callbacks):
    steps = epochs * math.ceil(len(data.x_train) / BATCH)
    decay = tf_keras.optimizers.schedules.CosineDecay(rate, max(steps, 1))
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(decay), loss)
    arguments = {"epochs": epochs, "batch_size": BATCH, "verbose": 0}
    model.fit(data.x_train, data.y_train, callbacks=list(callbacks), **arguments)
    return model


def compressed(job, data):
    """Returns the bytes of the .tflite."""
    tf_keras.utils.set_random_seed(job["seed"])
    first, second, third = job["epochs"]
    rates = job["rates"]
    model = fitted(MODELS[job["model"]](tf_keras), data, first, rates[0])
    steps = second * math.ceil(len(data.x_train) / BATCH)
    sparsity = tfmot.sparsity.keras
    schedule = sparsity.PolynomialDecay(0.0, job["sparsity"], 0, round(0.6 * steps))
    model = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    model = fitted(model, data, second, rates[1], sparsity.UpdatePruningStep())
    model = sparsity.strip_pruning(model)
    # The epochs of the last stage are shared by its two steps.
    model = cluster.cluster_weights(
        model,
        number_of_clusters=job["clusters"],
        cluster_centroids_init=cluster.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=True,
    )
    model = fitted(model, data, (third + 1) // 2, rates[2])
    model = cluster.strip_clustering(model)
    quantize = tfmot.quantization.keras
    combine = tfmot.experimental.combine
    model = quantize.quantize_apply(
        quantize.quantize_annotate_model(model),
        combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True),
    )
    model = fitted(model, data, third - (third + 1) // 2, rates[2] / 2)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def accuracy(content, data):
    """Returns the share of test images that a .tflite file gets right."""
    batch = math.gcd(len(data.x_test), 500)
    interpreter = tf.lite.Interpreter(model_content=content)
    source = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(source, (batch, *data.image_shape))
    interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]["index"]
    right = 0
    for start in range(0, len(data.x_test), batch):
        interpreter.set_tensor(source, data.x_test[start : start + batch])
        interpreter.invoke()
        found = np.argmax(interpreter.get_tensor(target), axis=-1)
        right += int(np.sum(found == data.y_test[start : start + batch]))
    return right / len(data.x_test)


def run(job):
    """Returns accuracy and bytes of what TFMOT makes of a job."""
    data = images(job["limit"], job["data"])
    content = compressed(job, data)
    engine = zlib.compressobj(9, zlib.DEFLATED, 31)
    size = len(engine.compress(content)) + len(engine.flush())
    return {"accuracy": accuracy(content, data), "gzip": size}


if __name__ == "__main__":
    answer_jobs(run)
