"""The TFMOT side of front.py, in a process of its own (Keras 2).

Reads one JSON job a line from stdin, writes the int8 .tflite that TFMOT's recipe makes
of the given weights, and answers with its path.
"""

import dataclasses
import math
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from _jobs import answer_jobs
from _models import MODELS
from _tfmot_pcqat import cluster, fitted, images

sparsity = tfmot.sparsity.keras
quantize = tfmot.quantization.keras
combine = tfmot.experimental.combine


def compressed(job, data):
    """Returns the bytes of the .tflite."""
    tf_keras.utils.set_random_seed(job["seed"])
    model = MODELS[job["model"]](tf_keras)
    with np.load(job["weights"]) as stored:
        model.set_weights([stored[name] for name in stored.files])
    epochs, rate, pruned = job["epochs"], job["rate"], job["sparsity"]
    if pruned:
        half = math.ceil(epochs / 2)
        steps = half * math.ceil(len(data.x_train) / 128)
        schedule = sparsity.PolynomialDecay(0.0, pruned, 0, round(0.6 * steps))
        model = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
        model = fitted(model, data, half, rate, sparsity.UpdatePruningStep())
        model = sparsity.strip_pruning(model)
        epochs, rate = epochs - half, 0.3 * rate
    if job["clusters"]:
        model = cluster.cluster_weights(
            model,
            number_of_clusters=job["clusters"],
            cluster_centroids_init=cluster.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=bool(pruned),
        )
        model = fitted(model, data, math.ceil(epochs / 2), rate)
        model = cluster.strip_clustering(model)
        epochs -= math.ceil(epochs / 2)
    scheme = quantize.default_8bit.Default8BitQuantizeScheme
    if job["clusters"]:
        scheme = combine.Default8BitClusterPreserveQuantizeScheme
    elif pruned:
        scheme = combine.Default8BitPrunePreserveQuantizeScheme
    kept = {"preserve_sparsity": bool(pruned)} if job["clusters"] else {}
    annotated = quantize.quantize_annotate_model(model)
    model = quantize.quantize_apply(annotated, scheme(**kept))
    model = fitted(model, data, max(epochs, 1), rate)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def run(job):
    """Writes the file of a job."""
    data, held = images(job["limit"]), job["validation"]
    data = dataclasses.replace(
        data, x_train=data.x_train[:-held], y_train=data.y_train[:-held]
    )
    Path(job["path"]).write_bytes(compressed(job, data))
    return {"path": job["path"]}


if __name__ == "__main__":
    answer_jobs(run)
