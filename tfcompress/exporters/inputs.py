"""Samples from which a converter takes the ranges of a float model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcompress.core.data import columns_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.tensors import TensorInfo

MAX_SAMPLES = 1000


def collect(
    data: Any, inputs: Sequence[TensorInfo], batch_size: int
) -> dict[str, np.ndarray]:
    """Returns up to `MAX_SAMPLES` samples, one array per input name.

    Args:
        data: as `core.data` reads it; a generator is read once.
        inputs: the inputs of the model.
        batch_size: the least number of samples that are needed.

    Raises:
        InvalidArgumentError: if shapes do not fit or there are too few samples.
    """
    columns = columns_of(data, inputs, "calibration_data", MAX_SAMPLES)
    if min(map(len, columns.values())) < batch_size:
        raise InvalidArgumentError(
            "Too few calibration samples.",
            received={name: column.shape for name, column in columns.items()},
            expected=f"at least {batch_size}, better 100 to 500",
        )
    return columns
