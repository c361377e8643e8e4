"""What a search says while it runs."""

from tfcompress.compression.progress import Progress


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
