"""compress with a budget of an NPU: cycles and SRAM, measured by its compiler."""

import json

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
