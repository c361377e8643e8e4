"""Checks of arguments that several formats have in common."""

from pathlib import Path
from typing import Any

from tfcompress.core.arguments import integer
from tfcompress.core.errors import InvalidArgumentError


def check_no_calibration(format: str, calibration_data: Any) -> None:
    """Raises `InvalidArgumentError` if a format without calibration is given data."""
    if calibration_data is not None:
        raise InvalidArgumentError(
            f"The format {format!r} does not quantize by calibration.",
            received="calibration_data",
            expected='calibration data with format="tflite", "micro" or "ethos_u" only',
            fix="use `tfcompress.calibrate` on the model first",
        )


def check_batch_size(size: Any) -> None:
    """Raises `InvalidArgumentError` unless `size` is None or a positive integer."""
    if size is not None:
        integer(size, "Bad `batch_size`.", low=1, expected="None, 1, 2, ...")


def check_suffix(filepath: Path, suffix: str) -> None:
    """Raises `InvalidArgumentError` if the path does not end in `suffix`."""
    if filepath.suffix != suffix:
        raise InvalidArgumentError(
            f"A {suffix} artifact needs a file name that says so.",
            received=str(filepath),
            expected=f"a path that ends in {suffix}",
            fix='rename it, or pass another format, such as `format="saved_model"`',
        )


def check_folder(filepath: Path, problem: str, example: str) -> None:
    """Raises `InvalidArgumentError` if the path of a folder has an ending."""
    if filepath.suffix:
        raise InvalidArgumentError(
            problem,
            received=str(filepath),
            expected=f'a path without an ending, such as "{example}"',
        )
