"""What a search says while it runs."""

from tfcompress.compression import progress as module
from tfcompress.compression.progress import Progress
from tfcompress.compression.sensitivity import sensitivity


def test_a_log_has_a_line_for_each_thing(capsys):
    with Progress(True) as progress:
        progress.say("baseline")
        progress.say("candidate 0: exporting [and measuring]")
        progress.count(0, 2)
        progress.count(0, 2)
        progress.count(1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2] for line in lines] == [
        "baseline",
        "candidate 0: exporting [and measuring]",
        "0 of 2 candidates",
        "1 of 2 candidates",
    ]


def test_nothing_where_nothing_is_asked_for(capsys):
    with Progress(False) as progress:
        progress.say("baseline")
        progress.count(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_log_says_how_far_a_thing_is_each_minute_only(capsys, monkeypatch):
    reminders = []
    monkeypatch.setattr(
        module, "each_minute", lambda say: reminders.append(say) or Progress(False)
    )
    with Progress(True) as progress, progress.steps("sensitivity of layers") as step:
        step(1, 3)
        step(2, 3)
        (remind,) = reminders
        remind(60.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2] for line in lines] == [
        "sensitivity of layers",
        "sensitivity of layers, 2 of 3",
    ]


def test_a_bar_of_one_thing_is_gone_after_it(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    with Progress(True) as progress:
        with progress.steps("sensitivity of layers") as step:
            step(2, 3)
            trials, layers = progress._bar.tasks
            assert (layers.completed, layers.total) == (2, 3)
            assert layers.description == "sensitivity of layers"
        assert progress._bar.tasks == [trials]
        assert trials.total is None


def test_the_sensitivity_says_how_far_it_is(task, tmp_path):
    said = []
    found = sensitivity(task, tmp_path, lambda *counts: said.append(counts))
    assert said == [(1, 3), (2, 3), (3, 3)]
    assert sensitivity(task, tmp_path, lambda *counts: said.append(counts)) == found
    assert len(said) == 3  # it was kept
