"""Several teachers behind the face of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfcompress.core.arguments import number, one_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.registry import PACKAGE


@keras.saving.register_keras_serializable(package=PACKAGE)
class TeacherEnsemble(keras.Model):
    """Several teachers that answer as one.

    Use it where several trained models are at hand: their mean is nearly always
    better than each of them, and the student takes over most of it. The answer is
    the (weighted) mean of the outputs, which for logits is the normalized
    geometric mean of the probabilities.

    Source: Hinton et al. (2015), section 3, for the mean; Fukuda et al.,
    "Efficient Knowledge Distillation from an Ensemble of Teachers" (2017), for
    the random choice.

    Args:
        teachers: models with outputs of equal shapes.
        weights: list of numbers >= 0; they are scaled to sum to one. Defaults to
            equal weights.
        mode: "mean", or "sample": for each sample the answer of one teacher, drawn
            with `weights` as probabilities.
        seed: seed of the draws.

    Raises:
        InvalidArgumentError: for no teachers, wrong weights or another mode.

    Example:

    >>> def teacher(value):
    ...     start = keras.initializers.Constant(value)
    ...     dense = keras.layers.Dense(2, kernel_initializer=start)
    ...     return keras.Sequential([keras.Input((1,)), dense])
    >>> ensemble = TeacherEnsemble([teacher(0.0), teacher(1.0)], weights=[1, 3])
    >>> ensemble(ops.ones((1, 1))).numpy().tolist()
    [[0.75, 0.75]]
    """

    def __init__(
        self,
        teachers: Sequence[Any],
        weights: Sequence[float] | None = None,
        mode: str = "mean",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        weights = [1.0] * len(teachers) if weights is None else list(weights)
        if not teachers or len(weights) != len(teachers):
            raise InvalidArgumentError(
                "An ensemble needs teachers, and a weight for each.",
                received=f"{len(teachers)} teachers, {len(weights)} weights",
                expected="one or more teachers and as many weights",
            )
        problem = "Wrong weights of teachers."
        expected = "numbers >= 0, not all of them 0"
        for weight in weights:
            number(weight, problem, "[0, inf)", expected)
        number(sum(weights), problem, "(0, inf)", expected)
        one_of(mode, "Wrong mode.", ("mean", "sample"))
        self.teachers = list(teachers)
        self.weights_of_teachers = [w / sum(weights) for w in weights]
        self.mode = mode
        self.seed = seed
        self._draws = keras.random.SeedGenerator(seed)
        if all(teacher.built for teacher in teachers):
            self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        answers = [teacher(inputs, training=False) for teacher in self.teachers]
        if self.mode == "mean":
            return keras.tree.map_structure(self._mean, *answers)
        batch = ops.shape(keras.tree.flatten(answers[0])[0])[0]
        chances = ops.log(ops.array([self.weights_of_teachers], "float32"))
        drawn = keras.random.categorical(chances, batch, seed=self._draws)[0]

        def choose(*outputs: Any) -> Any:
            stacked = ops.stack(outputs, axis=-1)
            picks = ops.one_hot(drawn, len(outputs), dtype=stacked.dtype)
            # One pick per sample, the same for everything in the sample.
            for _ in range(len(stacked.shape) - 2):
                picks = ops.expand_dims(picks, 1)
            return ops.sum(stacked * picks, axis=-1)

        return keras.tree.map_structure(choose, *answers)

    def _mean(self, *outputs: Any) -> Any:
        weighted = [w * output for w, output in zip(self.weights_of_teachers, outputs)]
        return sum(weighted[1:], weighted[0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "teachers": [keras.saving.serialize_keras_object(t) for t in self.teachers],
            "weights": list(self.weights_of_teachers),
            "mode": self.mode,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TeacherEnsemble:
        teachers = [
            keras.saving.deserialize_keras_object(t) for t in config["teachers"]
        ]
        return cls(**{**config, "teachers": teachers})
