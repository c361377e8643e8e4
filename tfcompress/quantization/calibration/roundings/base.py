"""The contract of what rounds the kernels of a model that is calibrated."""

from __future__ import annotations

from tfcompress.core.configured import Configured
from tfcompress.core.registry import Registry
from tfcompress.quantization.calibration.task import Calibration


class Rounding(Configured):
    """Base class of roundings: `apply(calibration)` sets kernels, steps and biases.

    To write your own, override `apply` and `units`, and register the class with
    `keras.saving.register_keras_serializable`. The kernels are to end as what their
    quantizer leaves as it is: whole multiples of a step.

    Attributes:
        learns: whether it learns from the data, and so needs some, and a kernel with
            one step for each channel.
    """

    learns = True

    def units(self, task: Calibration) -> int:
        """Returns how often `apply` will call `task.progress`."""
        raise NotImplementedError

    def apply(self, task: Calibration) -> None:
        """Rounds the kernels of a model."""
        raise NotImplementedError


ROUNDINGS: Registry[Rounding] = Registry("`rounding`", Rounding)
