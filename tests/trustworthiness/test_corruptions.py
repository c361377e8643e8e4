"""Corruptions: the formulas of the paper, against libraries that have them."""

import matplotlib.colors
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.trustworthiness.corruptions import CORRUPTIONS, chosen
from tfcompress.trustworthiness.value_range import ValueRange

IMAGES = np.random.default_rng(0).random((6, 32, 32, 3))


def corrupt(name, severity, images=IMAGES, seed=0):
    return CORRUPTIONS[name](images, severity, seed)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [12, 100])
def test_each_is_worse_with_severity_and_the_same_each_time(name, side):
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    rings = 0.3 + 0.25 * np.sin(8 * np.hypot(x, y - 0.1))
    images = np.repeat(rings[None, ..., None], 3000 // side**2 + 1, axis=0)
    distances = []
    for severity in range(1, 6):
        found = corrupt(name, severity, images)
        assert found.dtype == np.float32
        assert found.shape == images.shape
        assert 0.0 <= found.min() <= found.max() <= 1.0
        np.testing.assert_array_equal(found, corrupt(name, severity, images))
        distances.append(np.abs(found - images).mean())
    assert 0 < distances[0] < distances[4]
    # Boxes of one size may meet the rings better than smaller ones.
    if name != "pixelate":
        assert distances == sorted(distances)


def test_noise_has_the_strength_of_the_paper():
    grey = np.full((4, 100, 50, 1), 0.5)
    assert np.std(corrupt("gaussian_noise", 4, grey)) == pytest.approx(0.09, rel=0.03)
    # Poisson: variance is mean / c.
    assert np.var(corrupt("shot_noise", 3, grey)) == pytest.approx(0.005, rel=0.05)
    changed = corrupt("impulse_noise", 5, grey)
    assert np.mean(changed != 0.5) == pytest.approx(0.07, abs=0.01)
    assert set(np.unique(changed)) == {0.0, 0.5, 1.0}
    assert np.mean(changed == 1.0) == pytest.approx(0.035, abs=0.006)
    large = np.full((1, 100, 100, 1), 0.5)
    assert np.std(corrupt("gaussian_noise", 1, large)) == pytest.approx(0.08, rel=0.03)


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.4), (3, 0.7), (5, 1.0)])
def test_blur_is_scipys(severity, sigma):
    expected = scipy.ndimage.gaussian_filter(
        IMAGES, (0, sigma, sigma, 0), mode="nearest", truncate=4.0
    )
    np.testing.assert_allclose(corrupt("gaussian_blur", severity), expected, atol=1e-6)


@pytest.mark.parametrize("severity", [1, 2, 5])
def test_zoom_blur_is_scipys(severity):
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    total = IMAGES.copy()
    for factor in factors:
        kept = int(np.ceil(32 / factor))
        top = (32 - kept) // 2
        part = IMAGES[:, top : top + kept, top : top + kept]
        large = scipy.ndimage.zoom(part, (1, factor, factor, 1), order=1)
        trim = (large.shape[1] - 32) // 2
        total += large[:, trim : trim + 32, trim : trim + 32]
    expected = total / (len(factors) + 1)
    np.testing.assert_allclose(corrupt("zoom_blur", severity), expected, atol=1e-6)


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize(("severity", "share"), [(1, 0.95), (4, 0.75), (5, 0.65)])
def test_pixelate_is_pillows(severity, share, side):
    image = IMAGES[0, :side, :side, 0].astype("float32")
    fewer = int(side * share)
    small = Image.fromarray(image, "F").resize((fewer, fewer), Image.Resampling.BOX)
    expected = np.asarray(small.resize((side, side), Image.Resampling.BOX))
    found = corrupt("pixelate", severity, image[None, ..., None])
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(("severity", "c"), [(1, 0.05), (5, 0.3)])
def test_brightness_is_that_of_hsv(severity, c):
    images = IMAGES.copy()
    images[0, 0, 0] = 0.0
    hsv = matplotlib.colors.rgb_to_hsv(images)
    hsv[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
    expected = matplotlib.colors.hsv_to_rgb(hsv)
    np.testing.assert_allclose(
        corrupt("brightness", severity, images), expected, atol=1e-6
    )


def test_contrast():
    means = IMAGES.mean(axis=(1, 2), keepdims=True)
    expected = means + 0.4 * (IMAGES - means)
    np.testing.assert_allclose(corrupt("contrast", 3), expected, atol=1e-6)


def test_missing_values_become_the_mean_of_their_feature():
    table = np.random.default_rng(0).random((500, 4))
    found = corrupt("missing", 5, table)
    changed = found != table.astype("float32")
    assert np.mean(changed) == pytest.approx(0.07, abs=0.02)
    means = np.broadcast_to(table.mean(axis=0), table.shape)
    np.testing.assert_allclose(found[changed], means[changed], rtol=1e-6)


def test_seeds_and_names_have_noise_of_their_own():
    first = corrupt("gaussian_noise", 1)
    assert (first != corrupt("gaussian_noise", 1, seed=1)).mean() > 0.9
    assert list(chosen("auto", images=True))[-1] == "pixelate"
    assert list(chosen("auto", images=False)) == [
        "gaussian_noise",
        "impulse_noise",
        "missing",
    ]
    with pytest.raises(InvalidArgumentError, match="Received: missing"):
        chosen(["contrast", "missing"], images=True)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.9, (0, 1)),
        (-0.9, 0.9, (-1, 1)),
        (0, 200, (0, 255)),
        (-2.5, 3.0, (-2.5, 3.0)),
    ],
)
def test_ranges_of_images(low, high, expected):
    images = np.linspace(low, high, 32).reshape(2, 4, 4, 1).astype("float32")
    span = ValueRange.of(images, None)
    assert (float(span.low), float(span.high)) == pytest.approx(expected)
    unit = span.to_unit(images)
    assert 0 <= unit.min() <= unit.max() <= 1
    np.testing.assert_allclose(span.from_unit(unit), images, rtol=1e-5, atol=1e-5)
    assert float(ValueRange.of(images, (-9, 9)).width) == 18


def test_features_have_a_range_each():
    table = np.array([[0.0, 5.0, -1.0], [10.0, 5.0, 1.0]], "float32")
    span = ValueRange.of(table, None)
    np.testing.assert_array_equal(span.width, [10.0, 0.0, 2.0])
    assert span.from_unit(np.full((1, 3), 0.26), "int8").tolist() == [[3, 5, 0]]
    # A feature that never changes stays as it is.
    np.testing.assert_array_equal(span.from_unit(np.ones((1, 3))), [[10.0, 5.0, 1.0]])
    np.testing.assert_array_equal(span.to_unit(table)[:, 1], [0.0, 0.0])
