"""The accuracy in a report is that of the model, or there is none and a reason."""

import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from tfcompress.cli import app
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.trustworthiness.predictions import accuracy

L = keras.layers
X = np.linspace(-2, 2, 8, dtype="float32")[:, None]
BINARY = (np.arange(8) >= 3).astype("int32")  # one of eight is answered wrongly
MAPS = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype("float32")


def passing(*layers, shape=(1,)):
    return keras.Sequential([keras.Input(shape), *(layers or (L.Identity(),))])


def report(folder, model, x, y, *more):
    model.save(folder / "m.keras")
    np.savez(folder / "d.npz", x=x, y=y)
    paths = [str(folder / name) for name in ("m.keras", "m.keras")]
    data = ["--data", str(folder / "d.npz"), "--no-packed", "--json", *more]
    return CliRunner().invoke(app, ["report", *paths, *data])


@pytest.mark.parametrize("kind", ["logits", "sigmoid"])
@pytest.mark.parametrize("labels", [BINARY, BINARY[:, None], np.eye(2)[BINARY]])
def test_one_column_has_a_threshold(kind, labels):
    model = passing(L.Activation("sigmoid")) if kind == "sigmoid" else passing()
    assert accuracy(model, X, labels) == 7 / 8


def test_pixels_are_judged_one_by_one():
    truth = MAPS.argmax(-1)
    truth[0, 0, 0] = 1 - truth[0, 0, 0]
    model = passing(shape=(2, 3, 2))
    for labels in (truth, truth[..., None], np.eye(2)[truth]):
        assert accuracy(model, MAPS, labels) == pytest.approx(23 / 24)
    masks = (MAPS[..., :1] > 0).astype("int32")
    one = passing(shape=(2, 3, 1))
    assert accuracy(one, MAPS[..., :1], masks) == 1
    assert accuracy(one, MAPS[..., :1], masks[..., 0]) == 1
    # As many numbers, but of images that lie on their side.
    with pytest.raises(InvalidArgumentError, match=r"wrong shape.*\(4, 3, 2\)"):
        accuracy(model, MAPS, truth.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (X, "A label is no class"),
        (np.arange(8), "A label is no class"),
        (np.ones((8, 2)), "not one-hot"),
        ((BINARY, BINARY), "not one array"),
        (BINARY[:4], "wrong shape"),
    ],
)
def test_what_is_no_class_has_no_accuracy(labels, text):
    with pytest.raises(InvalidArgumentError, match=text):
        accuracy(passing(), X, labels)


@pytest.mark.export
def test_a_report_says_the_accuracy_or_why_there_is_none(tmp_path):
    done = report(tmp_path, passing(), X, BINARY, "--no-trust")
    found = json.loads(done.stdout)["rows"]
    assert [row["metric"] for row in found] == [7 / 8, 7 / 8]

    done = report(tmp_path, passing(), X, 3 * X, "--no-trust")
    assert [row["metric"] for row in json.loads(done.stdout)["rows"]] == [None, None]
    assert done.stderr.count("No accuracy: A label is no class") == 1
    refused = report(tmp_path, passing(), X, 3 * X)
    assert isinstance(refused.exception, InvalidArgumentError)
    assert "--no-trust leaves trust out" in str(refused.exception)

    inputs = keras.Input((1,))
    two = keras.Model(inputs, {"a": inputs + 1, "b": inputs * 2})
    done = report(tmp_path, two, X, BINARY, "--no-trust")
    assert [row["metric"] for row in json.loads(done.stdout)["rows"]] == [None, None]
    assert done.stderr.count("No accuracy: The reported model has several") == 1
