"""What a process leaves when it ends in the middle, and who removes it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tests.scripts import ROOT
from tfcompress.core.ownership import ended_by_sigterm, owned_name, scratch


def entries(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def started(body, *arguments):
    """Starts a Python process that prints "ready" and waits; returns it then."""
    text = "import os, pathlib, signal, sys, time\n" + textwrap.dedent(body)
    child = subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
    return child


HOLDS = """
from tfcompress.core.ownership import owned_name
directory = pathlib.Path(sys.argv[1])
with owned_name(directory, ".") as name:
    (directory / name).mkdir()
    (directory / name / "half").write_text("half")
    (directory / f"{name}.bin").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_an_owned_name_goes_with_all_that_bears_it(tmp_path):
    (tmp_path / ".tfcompress-notes").write_text("the user's")
    with owned_name(tmp_path, ".") as name:
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.npz").write_text("half")
        assert len(entries(tmp_path)) == 4
    assert entries(tmp_path) == [".tfcompress-notes"]


def test_what_is_held_is_left_alone(tmp_path):
    child = started(HOLDS, tmp_path)
    held = entries(tmp_path)
    with owned_name(tmp_path, "."):
        assert set(held) < set(entries(tmp_path))
    child.kill()
    child.wait()
    assert entries(tmp_path) == held
    with owned_name(tmp_path, "."):
        assert len(entries(tmp_path)) == 1
    assert entries(tmp_path) == []


def test_sigterm_cleans_and_ends(tmp_path):
    child = started(HOLDS, tmp_path)
    child.terminate()
    assert child.wait(timeout=60) == -signal.SIGTERM
    assert entries(tmp_path) == []


def test_a_handler_of_the_program_is_respected(tmp_path):
    child = started(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))" + HOLDS,
        tmp_path,
    )
    child.terminate()
    assert child.wait(timeout=60) == 7
    assert entries(tmp_path) == []


def test_the_default_is_put_back():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with ended_by_sigterm():
        assert callable(signal.getsignal(signal.SIGTERM))
        with ended_by_sigterm():
            pass
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(RuntimeError), ended_by_sigterm():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_other_threads_set_no_handlers():
    failed = []

    def work():
        try:
            with scratch() as folder:
                assert Path(folder).is_dir()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


def test_names_of_many_processes_do_not_meet(tmp_path):
    body = """
    from tfcompress.core.ownership import owned_name
    directory = pathlib.Path(sys.argv[1])
    print("ready", flush=True)
    for _ in range(300):
        with owned_name(directory, ".") as name:
            (directory / name).mkdir()
            (directory / name / "file").write_text("x")
            assert (directory / name / "file").exists()
    """
    children = [started(body, tmp_path) for _ in range(3)]
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    assert entries(tmp_path) == []
