"""Distillation in several steps: assistants between models, generations of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfcompress.core.arguments import integer
from tfcompress.core.copies import fresh_copy
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.distiller import Distiller

Train = Callable[[Distiller], Any]


def distill_chain(
    teacher: Any,
    students: Sequence[keras.Model],
    train: Train,
    distillation_losses: Any = "soft_labels",
    **options: Any,
) -> list[keras.Model]:
    """Distils from model to model: each student is the next one's teacher.

    Use it where the teacher is so much larger than the student that it teaches
    badly: an assistant of a size in between learns first, and then teaches.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher
    Assistant" (2020).

    Args:
        teacher: a trained model.
        students: models in the order in which they learn; the last is the goal.
        train: function that compiles and fits the distiller it is given.
        distillation_losses: as for `Distiller`.
        **options: further arguments of `Distiller`.

    Returns:
        The trained students.

    Raises:
        InvalidArgumentError: if there are no students.

    Example:

    ```python
    def train(distiller):
        distiller.compile("adam", loss, metrics=["accuracy"])
        distiller.fit(x, y, epochs=5)

    assistant, student = distill_chain(teacher, [assistant, student], train)
    ```
    """
    if not students:
        raise InvalidArgumentError(
            "There is no student.", received="an empty list", expected="some models"
        )
    for student in students:
        train(Distiller(teacher, student, distillation_losses, **options))
        teacher = student
    return list(students)


def born_again(
    teacher: keras.Model,
    train: Train,
    generations: int = 3,
    distillation_losses: Any = "soft_labels",
    **options: Any,
) -> list[keras.Model]:
    """Trains fresh copies of a model, each taught by the one before.

    Use it where the model shall not get smaller but better: the copies mostly
    beat the model they descend from, and the mean of all of them
    (`TeacherEnsemble`) beats each.

    Source: Furlanello et al., "Born-Again Neural Networks" (2018).

    Args:
        teacher: a trained model that can be cloned; it is the first teacher.
        train: function that compiles and fits the distiller it is given.
        generations: int > 0, number of copies.
        distillation_losses, **options: as for `Distiller`.

    Returns:
        The generations, the last one being the most learned.

    Raises:
        InvalidArgumentError: if `generations` is not positive.

    Example:

    >>> import numpy as np
    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> def train(distiller):
    ...     distiller.compile("sgd", "mse")
    ...     distiller.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    >>> len(born_again(teacher, train, generations=2))
    2
    """
    problem = "Wrong number of generations."
    integer(generations, problem, low=1, expected="an int > 0")
    students = [fresh_copy(teacher) for _ in range(generations)]
    return distill_chain(teacher, students, train, distillation_losses, **options)
