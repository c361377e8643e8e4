"""Self-distillation: a model's last layer teaches its early ones, in the same fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.losses import DeepSupervision


def deep_supervision(
    model: keras.Model,
    layers: Sequence[str],
    teaching_weight: float = 0.3,
    temperature: Any = 3.0,
    student_loss_weight: Any = 0.5,
    **options: Any,
) -> Distiller:
    """Makes a model learn from its own last layer while it is trained.

    Use it where there is no teacher: each of the named layers gets a classifier of
    its own, which learns from the labels and from what the last layer says, and
    which is thrown away after the fit. What is deployed is `model` itself
    (`distiller.student`), as it was built and at no cost. With a teacher, put
    `DeepSupervision` losses in the list of an ordinary `Distiller`.

    Source: Zhang et al., "Be Your Own Teacher: Improve the Performance of
    Convolutional Neural Networks via Self Distillation" (2019). With the compiled
    loss L, the model's regularization R and the loss D_i of each classifier (see
    `DeepSupervision`), the minimized loss is

    `a * L + (1 - a) * sum_i D_i + R`, with a = `student_loss_weight`;

    at 0.5, half of the paper's (whose hints between features are left out).

    Args:
        model: the model to train, with logits as its output.
        layers: names or paths of hidden layers, as for `Distiller`; best the last
            ones of each stage.
        teaching_weight: float in [0, 1], share of the last layer's word against the
            labels in D_i.
        temperature: float > 0 or a schedule, of the last layer's word.
        student_loss_weight: float in [0, 1] or a schedule, a above.
        **options: further arguments of `Distiller`.

    Returns:
        A `Distiller` without a teacher: compile it, fit it, and take its `student`.

    Raises:
        InvalidArgumentError: for no layers, layers that do not exist, and models
            that end in probabilities.

    Example:

    >>> import numpy as np
    >>> dense = [keras.layers.Dense(8, "relu", name="early"), keras.layers.Dense(3)]
    >>> model = keras.Sequential([keras.Input((4,)), *dense])
    >>> learner = deep_supervision(model, ["early"])
    >>> learner.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    >>> history = learner.fit(np.ones((8, 4)), np.zeros(8), verbose=0)
    >>> learner.student is model, len(model.weights)
    (True, 4)
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise InvalidArgumentError(
            "Deep supervision needs layers to supervise.",
            received="no names",
            expected="names of hidden layers of the model",
        )
    losses = [DeepSupervision(name, teaching_weight, temperature) for name in names]
    return Distiller(None, model, losses, None, student_loss_weight, **options)
