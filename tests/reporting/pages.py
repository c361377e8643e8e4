"""A report that has everything, with names that try to break out of a page."""

import keras
import numpy as np

from tests.trustworthiness.models import answering
from tfcompress.reporting import Evidence, FrontPoint, LayerWeights, Report, Row
from tfcompress.trustworthiness import trust

HOSTILE = "</svg><script>alert(1)</script>&amp;\"'$\\frac{x_1$"

#: The ids of all figures of `whole()`.
FIGURES = [
    *("comparison", "front", "layers-1", "layers-2", "sensitivity", "history"),
    *("classes", "confusion", "calibration", "corruptions", "saliency"),
]


def image_model(answers, images, name):
    """Returns a model of two classes that gives these images these answers."""
    flat = images.reshape(len(images), -1)
    kernel = np.linalg.lstsq(flat, answering(answers, 2), rcond=None)[0]
    dense = keras.layers.Dense(2, use_bias=False)
    shape = images.shape[1:]
    layers = [keras.Input(shape), keras.layers.Flatten(), dense]
    model = keras.Sequential(layers, name=name)
    dense.set_weights([kernel])
    return model


def whole():
    """Returns a report with every figure."""
    rng = np.random.default_rng(0)
    images = rng.random((8, 6, 6, 1)).astype("float32")
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    found = trust(
        image_model(labels, images, "original"),
        image_model([0, 0, 1, 0, 1, 0, 1, 1], images, "compressed"),
        images,
        labels,
        {"min_agreement": 0.99},
        class_names=[HOSTILE, "plain"],
        severities=(3,),
    )
    layers = (LayerWeights(HOSTILE, 1000, 8, 0.8), LayerWeights("b", 10, 4, 0.0))
    rows = (
        Row(HOSTILE, "keras", 4000, 3000, 0.0, metric=0.9, latency=0.4, size_ratio=1.0),
        Row("a.tflite", "tflite", 1200, 1000, 0.8, size_ratio=3.3, layers=layers),
        Row(
            "b.tflite",
            "tflite",
            900,
            800,
            0.8,
            metric=0.89,
            latency=0.2,
            size_ratio=4.4,
            latency_ratio=2.0,
            metric_change=-0.01,
            layers=layers,
        ),
    )
    front = tuple(
        FrontPoint(f"{i} {HOSTILE}", 900 * (i + 1), 0.8 + 0.05 * (i % 3), chosen=i == 2)
        for i in range(6)
    )
    history = {"loss": (2.0, 1.0), "val_loss": (2.1, 1.2), HOSTILE: (1.0, float("nan"))}
    evidence = Evidence(history, front, {HOSTILE: 0.02, "b": -0.001}, found)
    return Report(rows, evidence)
