"""Networks of keras.applications through the file. See the benchmark's table."""

import pytest

from tests.scripts import load_script

script = load_script("benchmarks/quantize_applications.py")

pytestmark = pytest.mark.export


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MobileNet", {"alpha": 0.25, "classes": 10}),
        pytest.param(
            *("MobileNetV2", {"alpha": 0.35, "classes": 10}), marks=pytest.mark.slow
        ),
        pytest.param(
            *("MobileNetV3Small", {"alpha": 0.75, "classes": 10}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_small_family_is_exact(name, options, tmp_path):
    row = script.measure(script.application(name, 32, **options), tmp_path / "m.tflite")
    assert row["coverage"] == 1.0
    assert row["max_steps"] <= 1.001
    assert row["agreement"] >= 0.96


@pytest.mark.slow
@pytest.mark.parametrize("name", script.FAMILIES)
def test_family_runs_in_integers(name, tmp_path):
    model = script.application(name, script.smallest(name, 96))
    row = script.measure(model, tmp_path / "m.tflite")
    assert row["coverage"] == 1.0
    assert row["max_steps"] <= 1.001
