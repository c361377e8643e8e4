"""Bringing the features of two networks to one shape."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.core.errors import InvalidArgumentError


def flat(features: Any) -> Any:
    """Returns features of any shape as one vector per sample."""
    size = 1
    for axis in features.shape[1:]:
        size *= -1 if axis is None else axis
    return ops.reshape(features, (ops.shape(features)[0], size if size > 0 else -1))


def match_places(teacher: Any, student: Any, loss: str) -> tuple[Any, Any]:
    """Returns both at the smaller of the two heights and widths, or step counts.

    Args:
        teacher, student: `(batch, height, width, channels)` or
            `(batch, steps, channels)`.
        loss: name of the loss, for errors.

    Raises:
        InvalidArgumentError: for tensors of another rank, or of different ranks.
    """
    ranks = len(teacher.shape), len(student.shape)
    if ranks[0] != ranks[1] or ranks[0] not in (3, 4):
        raise InvalidArgumentError(
            f"{loss} compares places, and these features have none in common.",
            received=f"teacher {tuple(teacher.shape)}, student {tuple(student.shape)}",
            expected="both (batch, height, width, channels) or both "
            "(batch, steps, channels)",
        )
    sizes = teacher.shape[1:-1], student.shape[1:-1]
    target = tuple(
        a if a == b else min(int(a), int(b)) if None not in (a, b) else _unknown(loss)
        for a, b in zip(*sizes)
    )
    return _resize(teacher, target), _resize(student, target)


def _unknown(loss: str) -> int:
    raise InvalidArgumentError(
        f"{loss} cannot match places whose number is not known.",
        received="None for the height, the width or the number of steps of one model",
        expected="the same layer sizes, or sizes known in advance",
        fix="give keras.Input a full shape",
    )


def _resize(features: Any, target: tuple) -> Any:
    size = tuple(features.shape[1:-1])
    if size == target:
        return features
    ratios = [have / want for have, want in zip(size, target)]
    if all(ratio.is_integer() for ratio in ratios):
        window = tuple(int(ratio) for ratio in ratios)
        return ops.average_pool(features, window, window)
    # Bilinear: between sizes that do not divide each other.
    if len(target) == 1:
        image = ops.image.resize(ops.expand_dims(features, 1), (1, *target))
        return ops.squeeze(image, axis=1)
    return ops.image.resize(features, target)
