"""What a search finds in its directory: other data, damage, halves, other processes."""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tfcompress.compression.data import Data
from tfcompress.compression.kept import put_in_place, read_kept, write_kept
from tfcompress.core.errors import ArtifactError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)).astype("float32"), RNG.integers(0, 2, 40)
W = RNG.random(40).astype("float32")


def known(given, batch_size=8):
    return Data("train", given, batch_size).fingerprint


def changed(array, index=-1):
    other = array.copy()
    other[index] = 1 - other[index]
    return other


@pytest.mark.parametrize(
    "other",
    [(changed(X), Y, W), (X, changed(Y), W), (X, Y, changed(W)), (X, Y)],
    ids=["inputs", "labels", "weights", "none"],
)
@pytest.mark.parametrize("kind", ["arrays", "data set", "shuffled", "sequence"])
def test_a_fingerprint_is_of_all_samples(kind, other):
    assert known(as_(kind, (X, Y, W))) != known(as_(kind, other))
    assert known(as_(kind, (X, Y, W))) == known(as_(kind, (X, Y, W)))


def as_(kind, arrays):
    if kind == "arrays":
        return arrays
    if kind == "sequence":
        return Sequence(arrays)
    data = tf.data.Dataset.from_tensor_slices(arrays)
    return (data.shuffle(40) if kind == "shuffled" else data).batch(8)


class Sequence(keras.utils.PyDataset):
    def __init__(self, arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return tuple(array[8 * index : 8 * index + 8] for array in self.arrays)


def test_swapped_labels_are_other_data():
    y = np.arange(40)
    assert known((X, y)) != known((X, y[::-1].copy()))


def noisy(x, y):
    return x + tf.random.normal(x.shape), y


def mixed(x, y):
    return x + tf.random.normal(x.shape), tf.cast(y, "float32") + tf.random.normal(())


def test_data_that_are_made_anew_are_known_by_what_stays():
    def fingerprint(y, how):
        data = tf.data.Dataset.from_tensor_slices((X, y)).shuffle(40).map(how).batch(8)
        return known(data)

    assert fingerprint(Y, noisy) == fingerprint(Y, noisy)
    assert fingerprint(Y, noisy) != fingerprint(changed(Y), noisy)
    assert fingerprint(Y, mixed) == fingerprint(Y, mixed)


def test_texts_and_dicts():
    given = {"word": np.array(["a", "bc"] * 20, object), "x": X}
    other = {"word": np.array(["ab", "c"] * 20, object), "x": X}
    assert known((given, Y)) != known((other, Y))
    assert known((given, Y)) == known((dict(given), Y))


@pytest.mark.parametrize(
    "text", ["", "{", "3", "[]", "null", '{"is": 3}', '{"is": 3, "sha256": "0"}']
)
def test_damaged_notes_are_none(tmp_path, text):
    write_kept(tmp_path / "a.json", {"value": [1.5, float("inf")]})
    assert read_kept(tmp_path / "a.json") == {"value": [1.5, float("inf")]}
    (tmp_path / "a.json").write_text(text)
    assert read_kept(tmp_path / "a.json") is None
    assert read_kept(tmp_path / "missing.json") is None


def test_a_changed_figure_is_damage(tmp_path):
    write_kept(tmp_path / "a.json", {"metric": 0.9})
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace("0.9", "0.99"))
    assert read_kept(tmp_path / "a.json") is None


def test_a_damaged_candidate_makes_place(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    put_in_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
    path.unlink()


@pytest.mark.parametrize("harm", [truncate, remove])
@pytest.mark.parametrize(
    "pattern",
    [
        "candidates/*/measures.json",
        "candidates/*/model.tflite",
        "candidates/*/model.keras",
        "trained/*.keras",
        "trained/*.json",
        "sensitivity*.json",
    ],
)
def test_whatever_is_damaged_is_made_again(
    result, trained, data, search, budget, tmp_path, harm, pattern
):
    folder = tmp_path / "copy"
    shutil.copytree(search.directory, folder)
    found = list(folder.glob(pattern))
    assert found
    for path in found:
        harm(path)
    again = tfcompress.compress(
        trained, *data, budget, search=tfcompress.Search(**copied(search, folder))
    )
    assert again.best.measures.metric == result.best.measures.metric
    assert again.artifact.path.read_bytes() == result.artifact.path.read_bytes()
    assert all(path.exists() for path in found if path.parent.name != "trained")
    hidden = [p for p in folder.rglob("*") if ".tfcompress-" in p.name]
    assert not hidden


def copied(search, folder):
    import dataclasses

    return {**dataclasses.asdict(search), "directory": str(folder)}


def test_a_damaged_study_is_named(result, trained, data, search, budget, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(search.directory, folder)
    (folder / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(ArtifactError, match=r"study\.db"):
        tfcompress.compress(
            trained, *data, budget, search=tfcompress.Search(**copied(search, folder))
        )


def test_a_candidate_that_a_kill_left_half_made_goes(task, tmp_path):
    from tfcompress.compression.candidate import Workshop
    from tfcompress.compression.recipe import Recipe

    workshop = Workshop(task, tmp_path)
    recipe = Recipe((), "tflite", {}, name="baseline")
    half = tmp_path / "candidates" / workshop.key(recipe)
    half.mkdir(parents=True)
    (half / "model.tflite").write_bytes(b"half")
    made = workshop.build(recipe)
    assert made.artifact.size > 1000
    assert sorted(os.listdir(half.parent)) == [half.name]


def test_a_cache_of_nothing_yet_goes_on(tmp_path):
    from tfcompress.distillation.teachers.cache import cache_teacher

    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    batches = tf.data.Dataset.from_tensor_slices(X).batch(8)
    cache_teacher(teacher, batches, tmp_path / "whole")
    whole = (tmp_path / "whole" / "0.bin").read_bytes()
    begun = tmp_path / "begun"
    shutil.copytree(tmp_path / "whole", begun)
    header = json.loads((begun / "cache.json").read_text())
    header |= {"complete": False, "arrays": [], "batches": [], "checksums": []}
    (begun / "cache.json").write_text(json.dumps(header))
    (begun / "0.bin").write_bytes(bytes(77))
    (begun / "cache.json.part").write_text("{")
    cache_teacher(teacher, batches, begun)
    assert (begun / "0.bin").read_bytes() == whole


def test_a_directory_of_the_user_is_no_cache(tmp_path):
    from tfcompress.distillation.teachers.cache import cache_teacher

    (tmp_path / "0.bin").write_bytes(b"the user's")
    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    batches = tf.data.Dataset.from_tensor_slices(X).batch(8)
    with pytest.raises(ArtifactError, match="not a teacher cache"):
        cache_teacher(teacher, batches, tmp_path)
    assert (tmp_path / "0.bin").read_bytes() == b"the user's"
    assert Path(tmp_path / "cache.json").exists() is False
