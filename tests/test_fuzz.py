"""A few hundred hostile files by default; benchmarks/fuzz.py runs 100 000.

What is exported first (.tflite, SavedModels, ONNX) is left to the benchmark.
"""

import shutil
import sys
import tempfile

import keras
import numpy as np
import pytest

import tfcompress
from tests.scripts import load_script
from tfcompress.compression.recipe import Recipe

INPUTS = {"unpack": 80, "recipe": 60, "cache": 80, "data": 60, "pack": 40}


@pytest.fixture(scope="module")
def fuzz():
    return load_script("benchmarks/fuzz.py")


@pytest.fixture(scope="module")
def corpus(fuzz, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    model = keras.Sequential(
        [keras.Input((16,), name="x"), keras.layers.Dense(8, name="scores")]
    )
    model.save(folder / "model.keras")
    tfcompress.pack(folder / "model.keras", folder / "model.tfc")
    tfcompress.pack(folder, folder.parent / "folder.tfc")
    shutil.move(folder.parent / "folder.tfc", folder / "folder.tfc")
    Recipe.ready("phone").save(folder / "phone.yaml")
    Recipe.ready("server").save(folder / "server.json")
    np.savez(folder / "data.npz", x=np.ones((8, 3)), y=np.arange(8))
    fuzz.make_cache(folder / "cache")
    return folder


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder to be in; what the fuzz sets in this process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("TMPDIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("loader", INPUTS)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # that is meant
def test_hostile_files_are_read_or_refused(fuzz, corpus, room, loader):
    watch = fuzz.prepare(room)
    found = {
        number: fuzz.one(loader, number, corpus, room, watch)
        for number in range(INPUTS[loader])
    }
    bad = {n: f for n, f in found.items() if f not in ("ok", "refused")}
    assert bad == {}
    # Whatever is no file of a kind can still be packed, byte by byte.
    assert ("ok" if loader == "pack" else "refused") in found.values()


def test_the_fuzz_sees_what_it_looks_for(fuzz, corpus, room, monkeypatch):
    def hostile(path, target):
        import fuzz_canary  # noqa: F401

        (room / "outside").write_text("x")

    watch = fuzz.prepare(room)
    share, seeds, change, _ = fuzz.LOADERS["unpack"]
    for read, words in (
        (hostile, "files outside of the target"),
        (lambda path, target: 1 / 0, "ZeroDivisionError"),
        (lambda path, target: (target / "x").mkdir(), "ok"),
    ):
        monkeypatch.setitem(fuzz.LOADERS, "unpack", (share, seeds, change, read))
        assert words in fuzz.one("unpack", 0, corpus, room, watch)
        (room / "outside").unlink(missing_ok=True)
    sys.modules.pop("fuzz_canary", None)
