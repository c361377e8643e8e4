"""Masked generation: the teacher's features from a part of the student's."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.core.arguments import integer, number
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.losses.base import LOSSES
from tfcompress.distillation.losses.projected import ProjectedLoss, require_width
from tfcompress.distillation.losses.shapes import match_places

_CONVOLUTIONS = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D}


@LOSSES.register("masked_generation")
class MaskedGeneration(ProjectedLoss):
    """Lets a masked layer of the student suffice to make a layer of the teacher.

    When to use: in place of `Hint` where the student's features shall get stronger, not
    only alike: what is masked must be told by its neighbours. Widths may differ; what
    is learned beside the student is thrown away after it.

    Source: Yang et al., "Masked Generative Distillation" (2022), equation 4. With a
    random mask m of the student's places, the projection r to the teacher's channels,
    and two convolutions of three by three with a ReLU between as generator G, over the
    n places and channels of a sample:

    `1/n * || t - G(m * r(s)) ||^2`

    where the authors take the sum and a small weight.

    Args:
        teacher_layer_name, student_layer_name: layers with outputs of shape
            `(batch, height, width, channels)` or `(batch, steps, channels)`.
        masked: float in (0, 1), share of the places that are masked; the paper takes
            0.5 to 0.75.
        seed: int or None, of the masks.

    Raises:
        InvalidArgumentError: for features without places.

    Example:

    >>> loss = MaskedGeneration("conv4", "conv2", seed=0)
    >>> value = loss.compute_loss(ops.ones((2, 4, 4, 8)), ops.ones((2, 8, 8, 3)))
    >>> [tuple(weight.shape) for weight in loss.trainable_weights][::2]
    [(3, 8), (3, 3, 8, 8), (3, 3, 8, 8)]
    """

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        masked: float = 0.5,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(teacher_layer_name, student_layer_name, **kwargs)
        self.masked = number(masked, "Wrong `masked`.", "(0, 1)", "a float in (0, 1)")
        problem, kinds = "Wrong `seed`.", "an int >= 0, or None"
        if seed is not None:
            seed = integer(seed, problem, low=0, expected=kinds)
        self.seed = seed
        self.lots = keras.random.SeedGenerator(seed)

    def make(self, teacher_shape: tuple, student_shape: tuple) -> None:
        require_width(self, teacher_shape, student_shape)
        rank, channels = len(teacher_shape), teacher_shape[-1]
        if rank not in _CONVOLUTIONS or len(student_shape) != rank:
            raise InvalidArgumentError(
                "MaskedGeneration masks places, and these features have none alike.",
                received=f"teacher {teacher_shape}, student {student_shape}",
                expected="both (batch, height, width, channels) or both "
                "(batch, steps, channels)",
                fix="take Hint for features without places",
            )
        convolution = _CONVOLUTIONS[rank]
        self.projection = keras.layers.Dense(channels, dtype="float32")
        self.first = convolution(
            channels, 3, padding="same", activation="relu", dtype="float32"
        )
        self.second = convolution(channels, 3, padding="same", dtype="float32")
        places = (*student_shape[:-1], channels)
        self.projection.build(student_shape)
        self.first.build(places)
        self.second.build(places)

    def values(self, teacher: Any, student: Any) -> Any:
        teacher, student = match_places(teacher, student, "MaskedGeneration")
        student = self.projection(student)
        lots = keras.random.uniform(ops.shape(student[..., :1]), seed=self.lots)
        seen = ops.cast(lots >= self.masked, student.dtype)
        made = self.second(self.first(student * seen))
        return ops.mean(ops.square(teacher - made), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "masked": self.masked, "seed": self.seed}
