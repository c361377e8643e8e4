"""compress from end to end, on real artifacts."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tfcompress
from tests.compression.conftest import make_model
from tfcompress import Budget, Recipe, Search
from tfcompress.compression.stages import Fit, Prune, Quantize
from tfcompress.compression.task import Task
from tfcompress.core.errors import InvalidArgumentError, VerificationError

pytestmark = pytest.mark.export


def test_the_budget_is_met_by_a_real_file(result, trained, data):
    assert result.met
    assert result.misses == ()
    measures, baseline = result.best.measures, result.baseline.measures
    assert measures.packed_bytes == result.packed.stat().st_size
    assert measures.packed_bytes <= 0.4 * baseline.bytes
    assert measures.bytes == result.artifact.path.stat().st_size
    x, y = data[1]
    said = tfcompress.load(result.artifact)(x)
    assert measures.metric == pytest.approx(np.mean(said.argmax(-1) == y))
    expected = trained.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    assert baseline.metric == pytest.approx(expected)
    assert measures.metric >= expected - 0.2
    assert result.raise_if_missed() is result


def test_the_evidence_is_whole(result):
    assert len(result.candidates) == 2
    assert result.best in result.candidates
    assert result.front
    assert all(one in result.candidates for one in result.front)
    for one in result.candidates:
        assert one.verified.startswith("passed")
        assert one.artifact.integer_coverage == 1.0
        assert one.history["loss"]
    assert sorted(result.sensitivity) == ["first", "logits", "second"]
    assert {c.technique for c in result.considered if c.tried} >= {"prune", "distil"}
    text = str(result)
    assert text.startswith("The budget is met by candidate")
    assert "chosen" in text
    assert "- prune: tried: zeros take few bits" in text
    figures = json.loads(result.to_json())
    assert figures["met"] is True
    assert figures["best"]["name"] == result.best.name
    assert figures["baseline"]["measures"]["metric"] == result.baseline.measures.metric


def test_the_report_has_all_of_the_evidence(result, data):
    report = result.report(*data[1], class_names=("no", "yes"))
    assert [row.name for row in report.rows] == ["baseline", result.best.name]
    assert report.rows[1].metric == result.best.measures.metric
    assert report.rows[1].packed_size == result.best.measures.packed_bytes
    figures = json.loads(report.to_json())
    assert [point["chosen"] for point in figures["front"]].count(True) == 1
    assert sorted(figures["sensitivity"]) == ["first", "logits", "second"]
    assert figures["history"]["loss"] == result.best.history["loss"]
    assert 0.5 < figures["trust"]["agreement"] <= 1


def test_the_finalized_model_is_that_of_the_file(result, data):
    x = data[1][0]
    check = tfcompress.verify(result.artifact, result.model, x)
    check.raise_if_failed()


def test_a_second_call_trains_and_exports_nothing(
    result, trained, data, search, budget, monkeypatch
):
    monkeypatch.setattr(Task, "fit", lambda *_: pytest.fail("a fit"))
    again = tfcompress.compress(trained, *data, budget, search=search)
    assert again.best == result.best
    assert again.candidates == result.candidates


def test_the_recipe_of_a_result_makes_the_same_bytes(result, trained, data, tmp_path):
    result.recipe.save(tmp_path / "mine.yaml")
    search = Search(directory=str(tmp_path / "again"), batch_size=64, verbose=0)
    again = tfcompress.compress(
        trained, *data, result.budget, recipe=tmp_path / "mine.yaml", search=search
    )
    assert again.artifact.path.read_bytes() == result.artifact.path.read_bytes()
    assert again.met
    assert again.recipe == result.recipe


def test_a_budget_that_is_missed_is_said_with_what_is_nearest(
    trained, data, search, tmp_path
):
    recipe = Recipe((Prune(0.95), Fit(1), Quantize()), name="brutal")
    search = dataclasses.replace(search, directory=str(tmp_path))
    result = tfcompress.compress(
        trained, *data, Budget(max_metric_drop=0.0), recipe=recipe, search=search
    )
    assert not result.met
    assert result.best.name == "brutal"
    assert "The nearest is brutal: the metric changes by -0." in str(result)
    with pytest.raises(VerificationError, match="No candidate meets the budget"):
        result.raise_if_missed()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"budget": Budget(max_packed_bytes=300)}, "No compression can meet"),
        ({"budget": Budget(max_bytes=500)}, "what the model's operators take packed"),
        ({"budget": 1000}, "`budget` is no budget"),
        ({"target": "tflight"}, "Unknown export format"),
        ({"recipe": "toaster"}, "There is no such recipe"),
        ({"metric": "auc"}, "does not report the metric"),
        ({"train": iter([])}, "can be read only once"),
    ],
)
def test_mistakes_are_found_before_any_training(
    trained, data, tmp_path, monkeypatch, change, text
):
    monkeypatch.setattr(Task, "fit", lambda *_: pytest.fail("a fit"))
    arguments = {
        "train": data[0],
        "validation": data[1],
        "budget": Budget(max_bytes="50%"),
        "search": Search(directory=str(tmp_path / "new"), verbose=0),
        **change,
    }
    with pytest.raises(InvalidArgumentError) as caught:
        tfcompress.compress(trained, **arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"trials": 0}, {"epochs": 1.5}, {"seed": -1}, {"minutes": 0}]
)
def test_searches_with_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InvalidArgumentError, match=f"Bad `{next(iter(wrong))}`"):
        Search(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phone", "microcontroller", "server"])
def test_recipes_that_come_with_the_package_work(trained, data, tmp_path, name):
    search = Search(directory=str(tmp_path), verbose=0, batch_size=64)
    result = tfcompress.compress(
        trained, *data, Budget(max_metric_drop=0.5), recipe=name, search=search
    )
    assert result.artifact.format == Recipe.ready(name).target
    assert result.met


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from tests.compression.conftest import make_data, make_model
import tfcompress
x, y = make_data()
model = make_model()
model.load_weights({weights!r})
result = tfcompress.compress(
    model, (x[:500], y[:500]), (x[500:], y[500:]),
    tfcompress.Budget(max_packed_bytes="40%", max_metric_drop=0.3),
    search=tfcompress.Search(4, 8, directory={folder!r}, batch_size=64, verbose=0))
print("RESULT", result.best.name, len(result.candidates))
"""


def start(trained, folder):
    weights = folder.with_suffix(".weights.h5")
    if not weights.exists():
        trained.save_weights(weights)
    root = str(Path(__file__).parents[2])
    code = SCRIPT.format(root=root, weights=str(weights), folder=str(folder))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )


def built(folder):
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in folder.glob("candidates/*/measures.json")
        if not path.parent.name.startswith(".")
    }


@pytest.mark.slow
def test_a_killed_search_resumes_and_repeats_nothing(trained, tmp_path):
    folder = tmp_path / "search"
    process = start(trained, folder)
    while len(built(folder)) < 3:  # the baseline and two candidates
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = built(folder)
    output, errors = start(trained, folder).communicate()
    assert "RESULT" in output, errors
    assert {key: built(folder)[key] for key in kept} == kept  # not written again
    assert len(built(folder)) == 5  # the baseline and four


@pytest.mark.slow
def test_two_processes_share_a_study(trained, tmp_path):
    folder = tmp_path / "search"
    processes = [start(trained, folder) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    lines = {output.splitlines()[-1] for output, errors in outputs if output}
    assert len(lines) == 1, outputs  # both found the same best
    assert len(built(folder)) == 5


def test_the_model_is_left_compiled_as_it_was(result, trained):
    assert trained.compiled
    assert make_model().get_config() == trained.get_config()
