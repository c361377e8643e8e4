"""Attention transfer: where in the image the activations are."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.losses.base import LOSSES, DistillationLoss, positive
from tfcompress.distillation.losses.shapes import match_places


@LOSSES.register("attention_transfer")
class AttentionTransfer(DistillationLoss):
    """Lets the student look where the teacher looks.

    For convolutional features of any number of channels, which are summed away;
    maps of different size are resized. Use it on one to three pairs of layers
    that end stages of the two networks.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention" (2017),
    equation 2. With the map `Q = vec(mean_c |A_c|^p)`, per sample:

    `|| Q_s / ||Q_s|| - Q_t / ||Q_t|| ||^2`

    squared as in the authors' code, and summed over places where that takes the
    mean, so the weight need not grow with the map (values are in [0, 4]).

    Args:
        teacher_layer_name, student_layer_name: layers with outputs of shape
            `(batch, height, width, channels)` or `(batch, steps, channels)`.
        power: float > 0, p above: higher looks at the strongest activations.

    Raises:
        InvalidArgumentError: for features without places.

    Example:

    >>> loss = AttentionTransfer("conv4", "conv2")
    >>> features = ops.ones((2, 4, 4, 8))
    >>> float(loss.compute_loss(features, 3.0 * features[..., :2]))
    0.0
    """

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        power: float = 2.0,
    ):
        super().__init__(teacher_layer_name, student_layer_name)
        self.power = positive("power", power)

    def values(self, teacher: Any, student: Any) -> Any:
        theirs, ours = (
            ops.mean(ops.power(ops.abs(x), self.power), axis=-1, keepdims=True)
            for x in (teacher, student)
        )
        theirs, ours = match_places(theirs, ours, type(self).__name__)
        return ops.sum(ops.square(_unit(theirs) - _unit(ours)), axis=-1)


def _unit(maps: Any) -> Any:
    flat = ops.reshape(maps, (ops.shape(maps)[0], -1))
    return ops.normalize(flat, axis=-1, epsilon=1e-12)
