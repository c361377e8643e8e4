"""Draws the README's picture from a real search on Fashion-MNIST.

    python docs/images/size_against_accuracy.py docs/images/size_against_accuracy.png

Trains a small network on 20 000 images, gives `compress` a budget, and draws the figure
"Candidates" of the report; five to ten minutes on two cores. The sizes are those of
packed .tflite files, the accuracy is that of LiteRT on 5000 validation images.
"""

import sys
import tempfile

import keras
from matplotlib.figure import Figure

import tfcompress
from tfcompress.datasets import load_images
from tfcompress.reporting.figures import report_figures
from tfcompress.reporting.palette import Palette, styled


def search(directory: str) -> tfcompress.Result:
    """Trains a network and returns what `compress` makes of it."""
    keras.utils.set_random_seed(0)
    data = load_images()
    train = data.x_train[:20_000], data.y_train[:20_000]
    validation = data.x_train[-5000:], data.y_train[-5000:]
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input(data.image_shape, name="image"),
            layers.Conv2D(16, 3, strides=2, activation="relu", name="conv1"),
            layers.Conv2D(32, 3, strides=2, activation="relu", name="conv2"),
            layers.Flatten(name="flat"),
            layers.Dense(128, activation="relu", name="dense"),
            layers.Dense(data.num_classes, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(*train, batch_size=128, epochs=10, verbose=2)
    return tfcompress.compress(
        model,
        train,
        validation,
        tfcompress.Budget(max_packed_bytes="6%", max_metric_drop=0.005),
        search=tfcompress.Search(trials=8, epochs=64, directory=directory),
    )


def draw(result: tfcompress.Result, filepath: str) -> None:
    """Draws the figure "Candidates" of a report."""
    report = result.report()
    figures = report_figures(report.rows, report.evidence)
    front = next(figure for figure in figures if figure.name == "front")
    with styled(palette := Palette()):
        canvas = Figure(front.size, layout="constrained", facecolor=palette.surface)
        front.draw(canvas, palette)
        canvas.savefig(filepath, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = search(folder)
        print(found)
        draw(found, sys.argv[1])
