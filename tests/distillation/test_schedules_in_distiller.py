"""Weights and temperatures that change over the optimizer's steps."""

import keras
import pytest

from tests.distillation.test_distiller import compiled_loss, cross_entropy, divergence
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.losses import SoftLabels

Linear = keras.optimizers.schedules.PolynomialDecay


def test_schedules_follow_the_optimizer(teacher, student, data):
    x, y = data
    share, weight, temperature = (
        Linear(first, 4, last) for first, last in ((0.0, 1.0), (2.0, 1.0), (8.0, 2.0))
    )
    distiller = Distiller(teacher, student, SoftLabels(temperature), [weight], share)
    distiller = Distiller.from_config(distiller.get_config())
    distiller.teacher.set_weights(teacher.get_weights())
    distiller.student.set_weights(student.get_weights())
    distiller.compile(keras.optimizers.SGD(0.0), compiled_loss())
    t, s = teacher.predict(x, verbose=0), student.predict(x, verbose=0)
    for step in range(6):
        progress = min(step / 4, 1.0)
        soft = divergence(t, s, 8.0 - 6.0 * progress).mean() * (2.0 - progress)
        hard = cross_entropy(y, s).mean()
        logs = distiller.train_on_batch(x, y, return_dict=True)
        distiller.reset_metrics()
        assert logs["distillation_loss"] == pytest.approx(soft, rel=1e-4)
        expected = progress * hard + (1 - progress) * soft
        assert logs["loss"] == pytest.approx(expected, rel=1e-4)
