"""Common corruptions: what happens to inputs outside of the laboratory.

Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", 2019, with the constants of CIFAR-10-C for images with a
side below 100 and those of ImageNet-C for larger ones. Seven of its fifteen corruptions
are here and one of its four extra ones (`gaussian_blur`). The others need photographs,
ImageMagick or a JPEG codec, or warp images of a certain size. All functions take values
in [0, 1], samples along the first axis.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfcompress.core.errors import InvalidArgumentError

SMALL = 100


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One corruption and its five severities.

    Attributes:
        apply: `apply(values, constant, generator)` corrupts values in [0, 1].
        small: constants of severities 1 to 5 for small images and features.
        large: the same for large images.
        inputs: what it is for: "images", "features" or "any".
    """

    apply: Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]
    small: Sequence[Any]
    large: Sequence[Any]
    inputs: str = "images"

    def __call__(
        self, values: np.ndarray, severity: int, seed: int | Sequence[int]
    ) -> np.ndarray:
        """Returns float32 values in [0, 1]; equal ones for equal arguments."""
        large = is_image(values) and min(values.shape[1:3]) >= SMALL
        constant = (self.large if large else self.small)[severity - 1]
        # Each corruption has numbers of its own, whichever others are measured.
        name = zlib.crc32(self.apply.__name__.encode())
        generator = np.random.default_rng([*np.atleast_1d(seed), name, severity])
        corrupted = self.apply(values, constant, generator)
        return np.clip(corrupted, 0.0, 1.0).astype("float32")


def is_image(values: np.ndarray) -> bool:
    """Returns whether an array holds images: rows, columns and 1, 3 or 4 channels."""
    return (
        values.ndim == 4
        and values.shape[-1] in (1, 3, 4)
        and min(values.shape[1:3]) >= 4
    )


def chosen(names: str | Sequence[str], images: bool) -> dict[str, Corruption]:
    """Returns corruptions by name; "auto" means all that such inputs can take.

    Raises:
        InvalidArgumentError: if a name is unknown or needs images that are not there.
    """
    kinds = ("any", "images" if images else "features")
    able = {name: one for name, one in CORRUPTIONS.items() if one.inputs in kinds}
    if names == "auto":
        return able
    asked = [names] if isinstance(names, str) else list(names)
    missing = [name for name in asked if name not in able]
    if missing:
        raise InvalidArgumentError(
            "Unknown corruption, or one that these inputs cannot take.",
            received=", ".join(map(str, missing)),
            expected=", ".join(able),
        )
    return {name: able[name] for name in asked}


def gaussian_noise(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Adds normal noise of standard deviation `c`, as a sensor in low light does."""
    return x + rng.normal(0.0, c, x.shape)


def shot_noise(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Counts light in whole quanta, of which the brightest value is `c` on average."""
    return rng.poisson(x * c) / c


def impulse_noise(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Sets a share `c` of the values to the lowest or the highest one."""
    extremes = rng.integers(0, 2, x.shape)
    return np.where(rng.random(x.shape) < c, extremes, x)


def gaussian_blur(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs with a normal kernel of standard deviation `c` pixels."""
    return _along_axes(x, functools.partial(_blurring, sigma=c))


def zoom_blur(x: np.ndarray, c: Any, rng: np.random.Generator) -> np.ndarray:
    """Averages an image with ever larger ones; `c` is the largest zoom and the step."""
    factors = np.arange(1.0, *c)
    total = x.copy()
    for factor in factors:
        total += _along_axes(x, functools.partial(_zooming, factor=factor))
    return total / (len(factors) + 1)


def brightness(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Adds `c` to the value of each pixel in the colour space HSV."""
    value = x.max(axis=-1, keepdims=True)
    brighter = np.clip(value + c, 0.0, 1.0)
    # Hue and saturation stay, so all channels grow by one factor; black has no hue.
    return np.where(value > 0, x * (brighter / np.maximum(value, 1e-12)), brighter)


def contrast(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Moves values towards the mean of their image and channel, by a factor `c`."""
    means = x.mean(axis=(1, 2), keepdims=True)
    return (x - means) * c + means


def pixelate(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Scales down to a share `c` of the size and up again."""
    return _along_axes(x, functools.partial(_pixelating, share=c))


def missing(x: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """Replaces a share `c` of the values by the mean of their feature.

    Not of Hendrycks & Dietterich: what an impulse is to an image, a gap is to a table.
    """
    means = x.mean(axis=tuple(range(x.ndim - 1)), keepdims=True)
    return np.where(rng.random(x.shape) < c, means, x)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        gaussian_noise,
        (0.04, 0.06, 0.08, 0.09, 0.10),
        (0.08, 0.12, 0.18, 0.26, 0.38),
        inputs="any",
    ),
    "shot_noise": Corruption(shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(
        impulse_noise,
        (0.01, 0.02, 0.03, 0.05, 0.07),
        (0.03, 0.06, 0.09, 0.17, 0.27),
        inputs="any",
    ),
    "gaussian_blur": Corruption(
        gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)
    ),
    "zoom_blur": Corruption(
        zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "brightness": Corruption(
        brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)
    ),
    "contrast": Corruption(
        contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)
    ),
    "pixelate": Corruption(
        pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)
    ),
    "missing": Corruption(
        missing,
        (0.01, 0.02, 0.03, 0.05, 0.07),
        (0.03, 0.06, 0.09, 0.17, 0.27),
        inputs="features",
    ),
}


def _along_axes(x: np.ndarray, matrix: Callable[[int], np.ndarray]) -> np.ndarray:
    """Multiplies rows and columns of images with a matrix for their size."""
    rows, columns = (matrix(size).astype(x.dtype) for size in x.shape[1:3])
    return np.einsum("ij,njkc,lk->nilc", rows, x, columns, optimize=True)


def _blurring(size: int, sigma: float) -> np.ndarray:
    """Weights of a normal kernel out to four deviations; edges are repeated."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((size, size))
    for row in range(size):
        np.add.at(matrix[row], np.clip(row + offsets, 0, size - 1), kernel)
    return matrix / kernel.sum()


def _zooming(size: int, factor: float) -> np.ndarray:
    """Weights that enlarge the middle of an axis, with linear interpolation."""
    kept = int(np.ceil(size / factor))
    wide = round(kept * factor)
    start = (size - kept) // 2 + ((wide - size) // 2) * (kept - 1) / max(wide - 1, 1)
    places = start + np.arange(size) * (kept - 1) / max(wide - 1, 1)
    lower = np.minimum(places.astype(int), size - 2)
    upper = places - lower
    matrix = np.zeros((size, size))
    matrix[np.arange(size), lower] = 1 - upper
    matrix[np.arange(size), lower + 1] += upper
    return matrix


def _pixelating(size: int, share: float) -> np.ndarray:
    fewer = max(int(size * share), 1)
    return _box(fewer, size) @ _box(size, fewer)


def _box(size: int, wanted: int) -> np.ndarray:
    """Weights that resize an axis: means of the values whose middles lie in a box."""
    scale = size / wanted
    middles = (np.arange(wanted)[:, None] + 0.5) * scale
    distance = (np.arange(size)[None] + 0.5 - middles) / max(scale, 1.0)
    inside = (distance > -0.5) & (distance <= 0.5)
    return inside / inside.sum(axis=1, keepdims=True)
