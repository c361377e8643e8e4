"""A sensor: the temperature in an hour, for a microcontroller, in one call.

    python examples/compress_sensor.py [--smoke]

Hourly temperatures of Seattle in 2010, in Fahrenheit, come with vega_datasets
(`pip install 'tfcompress[examples]'`). The network reads two days and is to run in
tflite-micro, in integers, at a quarter of the bytes.
"""

import csv
import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

import tfcompress

HOURS = 48


def load_temperatures():
    """Returns windows of 48 hours and the hour after each, in three stretches."""
    # Read as a file: the package itself would import pandas.
    package = importlib.util.find_spec("vega_datasets")
    path = Path(package.submodule_search_locations[0]) / "_data" / "seattle-temps.csv"
    with path.open() as file:
        values = [float(row["temp"]) for row in csv.DictReader(file)]
    series = np.array(values, "float32")
    mean, deviation = series.mean(), series.std()
    scaled = (series - mean) / deviation
    starts = np.arange(len(scaled) - HOURS)
    x = np.stack([scaled[start : start + HOURS] for start in starts])[..., None]
    y = scaled[HOURS:, None]
    # Every tenth week is kept apart, so that all seasons are in all parts.
    week = (starts + HOURS) // (24 * 7) % 10
    parts = [(x[chosen], y[chosen]) for chosen in (week > 1, week == 0, week == 1)]
    return parts, float(deviation)


def build():
    """Returns a small convolutional network over time."""
    hours = keras.Input((HOURS, 1), name="hours")
    x = hours
    for width in (32, 48, 64):
        x = layers.Conv1D(width, 5, padding="same", activation="relu")(x)
        x = layers.MaxPooling1D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    return keras.Model(hours, layers.Dense(1, name="next")(x))


def main(smoke: bool = False, output: str = "compress_sensor") -> tfcompress.Result:
    """Trains, compresses and judges; returns the result."""
    keras.utils.set_random_seed(0)
    (train, validation, test), deviation = load_temperatures()
    model = build()
    model.compile(keras.optimizers.Adam(2e-3), "mse", metrics=["mae"])
    model.fit(*train, epochs=1 if smoke else 15, batch_size=64, verbose=0)
    result = tfcompress.compress(
        model,
        train,
        validation,
        # In units of the metric: standard deviations, a tenth of a degree.
        tfcompress.Budget(max_bytes="25%", max_metric_drop=0.1 / deviation),
        target="micro",
        search=tfcompress.Search(
            trials=1 if smoke else 5,
            epochs=2 if smoke else 40,
            directory=str(Path(output) / "search"),
            verbose=0,
        ),
    )
    print(result)
    errors = {}
    for name, predict in (
        ("before", lambda x: model.predict(x, verbose=0)),
        ("after", result.best.runner()),
    ):
        error = np.mean(np.abs(predict(test[0]) - test[1]))
        errors[name] = float(error) * deviation
    print("mean error in weeks not seen before, degrees Fahrenheit:", errors)
    return result


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
