"""Contracts: what each class of an open axis, and each layer rule, must do.

One suite for everyone's classes. A class of your own is ready when its check
passes; the same checks run over every class of tfcompress.

>>> from tfcompress import Magnitude, PolynomialSparsity
>>> check_schedule(PolynomialSparsity(0.0, 0.8))
>>> check_criterion(Magnitude(p=2))
"""

from tfcompress.testing.exporters import check_exporter
from tfcompress.testing.losses import check_loss
from tfcompress.testing.observers import check_observer
from tfcompress.testing.pruning import check_criterion, check_pattern
from tfcompress.testing.quantizers import check_quantizer
from tfcompress.testing.rules import check_layer_rule
from tfcompress.testing.schedules import check_schedule

__all__ = [
    "check_criterion",
    "check_exporter",
    "check_layer_rule",
    "check_loss",
    "check_observer",
    "check_pattern",
    "check_quantizer",
    "check_schedule",
]
