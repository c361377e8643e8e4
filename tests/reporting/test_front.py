"""Candidates: which of them no other one beats, and how they are told."""

import json

import keras
import numpy as np
import pytest

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.reporting import Evidence, FrontPoint, Report, Row, pareto_front, report
from tfcompress.reporting.drawing import bytes_text, short

POINTS = (
    FrontPoint("large", 900, 0.95),
    FrontPoint("small|est", 100, 0.80, latency=0.5),
    FrontPoint("worse", 950, 0.90),
    FrontPoint("middle", 300, 0.90, chosen=True),
    FrontPoint("twin", 300, 0.90),
)


def test_the_front_has_those_that_no_other_one_beats():
    names = [point.name for point in pareto_front(POINTS)]
    assert names == ["small|est", "middle", "twin", "large"]
    assert pareto_front([]) == ()
    failed = FrontPoint("failed", 50, float("nan"))
    assert pareto_front([failed, *POINTS]) == pareto_front(POINTS)


def test_the_front_of_random_points(rng):
    points = [
        FrontPoint(str(i), int(size), float(metric))
        for i, (size, metric) in enumerate(rng.integers(0, 30, size=(200, 2)))
    ]
    front = pareto_front(points)
    for point in points:
        beaten = any(
            other.size <= point.size
            and other.metric >= point.metric
            and (other.size, other.metric) != (point.size, point.metric)
            for other in points
        )
        assert (point in front) is not beaten


def test_markdown_and_json():
    made = Report((Row("m", "keras", 4, 3),), Evidence(front=POINTS))
    lines = made.to_markdown().splitlines()
    assert lines[4] == "## Candidates"
    assert [line.split()[1] for line in lines[8:]] == [
        "small\\|est",
        "middle",
        "twin",
        "large",
        "worse",
    ]
    assert "| chosen |   300 | 0.9000 |          - |" in made.to_markdown()
    found = json.loads(made.to_json())
    assert found["front"][1] == {
        "name": "small|est",
        "size": 100,
        "metric": 0.8,
        "latency": 0.5,
        "chosen": False,
    }
    assert found["trust"] is None


def test_report_takes_evidence_and_weights_of_layers():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="last")])
    model.layers[0].set_weights([np.array([[0.0, 1], [0, 0], [2, 3]]), np.zeros(2)])
    history = keras.callbacks.History()
    history.history = {"loss": [2.0, np.float32(1.5)], "lr": [1e-3, float("nan")]}
    made = report(
        model, front=list(POINTS), history=history, sensitivity={"last": np.float64(1)}
    )
    [layer] = made.rows[0].layers
    assert layer.name.endswith("last/kernel")
    assert (layer.count, layer.bits, layer.sparsity) == (6, 32, 0.5)
    found = json.loads(made.to_json(), parse_constant=pytest.fail)
    assert found["history"] == {"loss": [2.0, 1.5], "lr": [0.001, None]}
    assert found["sensitivity"] == {"last": 1.0}
    assert found["rows"][0]["layers"][0]["sparsity"] == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"curves": {}}, "Unknown keyword arguments of `report`. Received: curves"),
        ({"front": [("a", 1, 2)]}, r"`front` is not.*Received: tuple: \('a', 1, 2\)"),
        ({"trust": "yes"}, "`trust` is not.*Received: str: yes"),
        ({"history": {"loss": ["high"]}}, "`history` is not what"),
        ({"history": 3}, "`history` is not what"),
        ({"sensitivity": [1, 2]}, "`sensitivity` is not what"),
    ],
)
def test_bad_evidence_is_refused_before_anything_is_measured(given, message):
    with pytest.raises(InvalidArgumentError, match=message):
        report(None, **given)


def test_names_and_bytes():
    assert short("x" * 30) == "x" * 30
    assert len(short("x" * 31)) == 30
    assert bytes_text(1_234_567_890) == "1.23 GB"
    assert bytes_text(12_345) == "12.3 kB"
