"""verify: what it measures, when it fails and what it says then."""

import json

import keras
import numpy as np
import pytest

from tfcompress.core.errors import InvalidArgumentError, VerificationError
from tfcompress.exporters import KerasRunner, Runner, TensorInfo, export
from tfcompress.verification import Verification, verify

L = keras.layers


class Fixed(Runner):
    """A runner that gives back fixed outputs, whatever comes in."""

    def __init__(self, outputs, step=None):
        self.values = {name: np.asarray(v) for name, v in outputs.items()}
        infos = tuple(
            TensorInfo(name, (None, *v.shape[1:]), "float32", step=step)
            for name, v in self.values.items()
        )
        super().__init__((TensorInfo("x", (None, 1), "float32"),), infos)

    def bind(self, batch):
        return lambda: self.values


X = np.zeros((4, 1), "float32")
SCORES = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [4.0, 0.0]])


def test_equal_outputs_pass():
    result = verify(Fixed({"y": SCORES}), Fixed({"y": SCORES}), X)
    assert result == Verification(0.0, None, 1.0, None, 4, True)
    assert result.raise_if_failed() is result
    assert str(result).startswith("passed on 4 samples: max error 0, top-1")


def test_error_in_steps():
    other = SCORES.copy()
    other[1, 1] += 0.25
    result = verify(Fixed({"y": other}, step=0.25), Fixed({"y": SCORES}), X)
    assert (result.max_abs_error, result.max_error_steps) == (0.25, 1.0)
    assert result.passed
    other[1, 1] += 0.25
    result = verify(Fixed({"y": other}, step=0.25), Fixed({"y": SCORES}), X)
    assert (result.max_error_steps, result.passed) == (2.0, False)
    with pytest.raises(VerificationError, match=r"'y' is off by 0.5, more than 0.25"):
        result.raise_if_failed()


def test_float_threshold_is_relative_to_the_output():
    other = SCORES + 3.9e-5
    assert verify(Fixed({"y": other}), Fixed({"y": SCORES}), X).passed
    assert not verify(Fixed({"y": other + 2e-6}), Fixed({"y": SCORES}), X).passed
    assert verify(Fixed({"y": SCORES + 0.1}), Fixed({"y": SCORES}), X, 0.11).passed


def test_agreement():
    other = SCORES.copy()
    other[0] = [1.0, 0.0]
    result = verify(
        Fixed({"y": other}), Fixed({"y": SCORES}), X, max_abs_error=9, min_agreement=0.8
    )
    assert result.agreement == 0.75
    assert result.failures == ("top-1 agreement 0.75 is below 0.8",)


def test_nothing_to_agree_on():
    one = Fixed({"y": SCORES[:, :1]})
    assert verify(one, one, X).agreement is None
    assert verify(one, one, X, min_agreement=0.5).failures == (
        "top-1 agreement None is below 0.5",
    )


def test_nan_is_always_a_failure():
    other = SCORES.copy()
    other[2, 0] = np.nan
    result = verify(
        Fixed({"y": other}), Fixed({"y": SCORES}), X, max_abs_error=float("inf")
    )
    assert not result.passed
    assert result.failures == ("1 values of output 'y' of the artifact are NaN",)
    assert json.loads(result.to_json())["max_abs_error"] is None
    result = verify(Fixed({"y": SCORES}), Fixed({"y": other}), X)
    assert result.failures == ("1 values of output 'y' of the reference are NaN",)


def test_equal_infinities_are_no_difference():
    masked = SCORES.copy()
    masked[0, 0] = -np.inf
    assert verify(Fixed({"y": masked}), Fixed({"y": masked}), X).max_abs_error == 0.0
    assert not verify(Fixed({"y": masked}), Fixed({"y": SCORES}), X).passed


def test_outputs_that_do_not_fit():
    with pytest.raises(InvalidArgumentError, match=r"shape \(4, 2\).*shape \(4, 1\)"):
        verify(Fixed({"y": SCORES}), Fixed({"y": SCORES[:, :1]}), X)
    with pytest.raises(InvalidArgumentError, match=r"\['y'\].*\['a', 'b'\]"):
        verify(Fixed({"y": SCORES}), Fixed({"a": SCORES, "b": SCORES}), X)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((0, 1)), r"no samples. Received: shape \(0, 1\)"),
        (np.zeros((4, 3)), r"Received: shape \(4, 3\). Expected: shape \('n', 1\)"),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(InvalidArgumentError, match=message):
        verify(Fixed({"y": SCORES}), Fixed({"y": SCORES}), inputs)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    second = keras.Input((3,), name="second")
    first = keras.Input((6,), name="first")
    # Not in alphabetical order, on purpose.
    hidden = L.Dense(8, activation="relu")(L.Concatenate()([second, first]))
    return keras.Model([second, first], L.Dense(4, name="scores")(hidden))


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(30, 3)), rng.normal(size=(30, 6))]


@pytest.mark.export
def test_real_artifacts(model, inputs, tmp_path):
    phone = export(model, tmp_path / "m.tflite")
    server = export(model, tmp_path / "m", format="saved_model")
    for artifact, reference in (
        (phone, model),
        (server, model),
        (str(phone.path), server.path),
        (KerasRunner(model), phone),
    ):
        result = verify(artifact, reference, inputs, min_agreement=1.0)
        assert result.passed, str(result)
        assert result.samples == 30
    result = verify(phone, model, inputs, min_integer_coverage=1.0)
    assert result.failures == ("integer coverage 0.0 is below 1.0",)
    other = keras.models.clone_model(model)
    assert not verify(phone, other, inputs).passed


@pytest.mark.export
def test_subclassed_reference(tmp_path):
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

    model, x = Plain(), np.ones((5, 2), "float32")
    model(x)
    artifact = export(
        model, tmp_path / "m.tflite", input_signature=keras.InputSpec(shape=(None, 2))
    )
    assert verify(artifact, model, x).passed
