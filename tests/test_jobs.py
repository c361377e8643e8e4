"""Long benchmarks go on where they were, and show what they were asked for."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_jobs_that_ran_are_not_repeated(tmp_path):
    from _jobs import mean, run_jobs

    ran = []

    def run(job):
        ran.append(job["seed"])
        return {"accuracy": job["seed"] / 10, "layers": [1]}

    path = tmp_path / "results.json"
    jobs = [{"seed": seed, "epochs": (4, 2)} for seed in (1, 2)]
    run_jobs(jobs[:1], run, path)
    results = run_jobs(jobs, run, path)
    assert ran == [1, 2]
    assert results == json.loads(path.read_text(encoding="utf-8"))
    assert mean(results, "accuracy") == pytest.approx(0.15)
    assert mean(results, "size") is None
    # Another recipe is another job, and the results of the first are not among its.
    changed = run_jobs([{"seed": 1, "epochs": (5, 2)}], run, path)
    assert ran == [1, 2, 1]
    assert [result["epochs"] for result in changed] == [[5, 2]]


def test_a_child_answers_until_it_is_closed(tmp_path):
    from _jobs import Child

    script = tmp_path / "double.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from _jobs import answer_jobs\n"
        "print('this is no answer', file=sys.stderr)\n"
        "answer_jobs(lambda job: {'twice': 2 * job['number']})\n"
    )
    child = Child(script)
    assert child.ask({"number": 21}) == {"twice": 42}
    with pytest.raises(RuntimeError, match=r"double\.py died on {'size': 3}"):
        child.ask({"size": 3})
    child.close()
