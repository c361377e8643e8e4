"""compress with a budget of an NPU: cycles and SRAM, measured by its compiler."""

import json

import keras
import pytest

import tfcompress
from tfcompress import Budget, Recipe, Search
from tfcompress.compression.stages import Fit, Quantize, Shrink
from tfcompress.core.errors import InvalidArgumentError

pytest.importorskip("ethosu")
pytestmark = pytest.mark.export
NPU = "u55-64"


@pytest.fixture(scope="module")
def small(trained, data, tmp_path_factory):
    recipe = Recipe((Shrink(macs=0.5), Quantize(), Fit(3, 0.3)))
    budget = Budget(max_cycles="80%", max_metric_drop=0.3, npu=NPU)
    search = Search(
        directory=str(tmp_path_factory.mktemp("npu")), verbose=0, batch_size=64
    )
    return tfcompress.compress(trained, *data, budget, recipe=recipe, search=search)


def test_cycles_are_those_of_the_artifact(small):
    best, npu = small.best, small.artifact.npu
    assert small.artifact.format == "ethos_u"
    assert (npu.npu, npu.share) == (NPU, 1.0)
    assert (best.measures.cycles, best.measures.sram) == (npu.cycles, npu.sram)
    assert best.recipe.export == {"npu": NPU}
    compiled = best.path / "model_vela.tflite"
    assert best.measures.bytes == compiled.stat().st_size


def test_shares_are_of_the_model_in_integers_as_it_is(small):
    assert small.met
    assert small.best.measures.cycles < 0.8 * small.baseline.measures.cycles
    assert small.baseline.artifact.format == "tflite"


def test_the_figures_are_in_the_table_and_the_json(small):
    table = str(small)
    assert "cycles |" in table
    assert f"{small.best.measures.cycles:,}" in table
    assert f"{small.baseline.measures.cycles:,}" in table
    stored = json.loads(small.to_json())["best"]["measures"]
    assert stored["npu_share"] == 1.0


def test_the_report_has_each_layer(small, tmp_path):
    report = small.report()
    baseline, best = report.rows
    assert (baseline.cycles, best.cycles) == (
        small.baseline.measures.cycles,
        small.best.measures.cycles,
    )
    text = report.to_markdown()
    assert "NPU cycles" in text
    assert f"on {NPU}" in text
    for layer in small.artifact.npu.layers:
        assert layer.name in text
    pytest.importorskip("jinja2")
    page = report.to_html(tmp_path / "report.html").read_text()
    assert "Layers of " in page
    assert f" on {NPU}</summary>" in page


def test_a_budget_that_nothing_meets_says_what_would_be(small, trained, data):
    folder = str(small.best.folder.parent.parent)
    missed = tfcompress.compress(
        trained,
        *data,
        Budget(max_cycles=10, npu=NPU),
        recipe=small.recipe,
        search=Search(directory=folder, verbose=0, batch_size=64),
    )
    assert not missed.met
    assert f"cycles {missed.best.measures.cycles:,}, 10 are allowed" in str(missed)
    assert "`max_cycles=" in str(missed)


def test_another_target_is_refused(trained, data, tmp_path):
    with pytest.raises(InvalidArgumentError, match="npu='u55-64' with target 'micro'"):
        tfcompress.compress(
            trained,
            *data,
            Budget(max_cycles=10, npu=NPU),
            target="micro",
            search=Search(directory=str(tmp_path), verbose=0),
        )


@pytest.mark.slow
def test_the_search_finds_a_small_network_of_pictures(tmp_path):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = (digits.images[..., None] / 16).astype("float32"), digits.target
    train, validation = (x[:1200], y[:1200]), (x[1200:], y[1200:])
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(32, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(10, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(*train, epochs=8, verbose=0)
    budget = Budget(
        max_cycles="70%", max_sram="100%", max_metric_drop=0.1, npu="u55-128"
    )
    search = Search(trials=3, epochs=9, final=1, directory=str(tmp_path), verbose=0)
    found = tfcompress.compress(
        model, train, validation, budget, recipe="auto", search=search
    )
    assert found.met, found
    before, best = found.baseline.measures, found.best.measures
    assert best.cycles <= 0.7 * before.cycles
    assert best.sram <= before.sram
    assert found.artifact.npu.share == 1.0
    assert found.artifact.npu.npu == "u55-128"
    assert len(found.candidates) == 3
