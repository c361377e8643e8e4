"""The step-time benchmark takes turns, and its ratios are those of the same round."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class Callback:
    """Stands in for the Callback of a Keras."""


def fit(log, name, steps):
    def run(turn):
        for batch in range(steps):
            turn.on_train_batch_begin(batch)
            log.append(name)
            turn.on_train_batch_end(batch)

    return run


def test_open_fits_train_in_turns():
    from _rounds import Fit

    log = []
    a, b = (Fit(fit(log, name, 6), Callback, 2) for name in "ab")
    times = [one.advance() for one in (a, b, b, a)]
    assert log == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert all(cpu >= 0 and wall > 0 for cpu, wall in times)


def test_a_fit_that_fails_says_so():
    from _rounds import Fit

    def run(turn):
        raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        Fit(run, Callback, 2).advance()


@pytest.mark.slow
@pytest.mark.oracle
def test_the_benchmark_runs(tmp_path):
    import step_time

    names = ["prune", "qat"]
    results = step_time.main(
        ["--models", "lenet-300-100", "--rounds", "2", "--steps", "10", "--variants"]
        + [*names, "--json", str(tmp_path / "times.json")]
    )
    rows = {(r["framework"], r["variant"]): r for r in results["lenet-300-100"]}
    assert len(rows) == 6
    assert rows["Keras 3", "plain"]["cpu_ratio"] == 1.0
    assert 0.5 < rows["Keras 3", "prune"]["cpu_ratio"] < 5
