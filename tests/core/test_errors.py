"""Errors say what was received, what was expected and what to do."""

import warnings

import pytest

from tfcompress.core import errors


def test_message_has_the_four_parts_in_order():
    error = errors.CompressionError(
        "Bad sparsity.", received=1.5, expected="[0, 1)", fix="write 80 % as 0.8."
    )
    assert str(error) == (
        "Bad sparsity. Received: 1.5. Expected: [0, 1). What to do: write 80 % as 0.8."
    )


def test_parts_that_are_not_given_are_left_out():
    assert str(errors.CompressionError("Just this.")) == "Just this."
    assert str(errors.CompressionError("A.", fix="b")) == "A. What to do: b."


def test_a_received_zero_or_empty_value_is_still_shown():
    assert "Received: 0." in str(errors.CompressionError("A.", received=0))
    assert "Received: False." in str(errors.CompressionError("A.", received=False))


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InvalidArgumentError, ValueError),
        (errors.UnsupportedLayerError, ValueError),
        (errors.ExportError, RuntimeError),
        (errors.ArtifactError, RuntimeError),
        (errors.VerificationError, RuntimeError),
    ],
)
def test_each_error_is_also_the_builtin_one(kind, builtin):
    with pytest.raises(builtin, match=r"^Wrong\. Expected: right\.$") as caught:
        raise kind("Wrong.", expected="right")
    assert isinstance(caught.value, errors.CompressionError)


def test_the_warning_is_a_user_warning():
    with pytest.warns(UserWarning, match="left out"):
        warnings.warn("left out", errors.CompressionWarning, stacklevel=1)
