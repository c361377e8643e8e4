"""Small .keras files that ask for more than there is."""

import json
import shutil
import zipfile

import h5py
import keras
import pytest

from tfcompress.cli.inputs import load_model
from tfcompress.core.errors import ArtifactError

L = keras.layers


def changed(source, target, change=lambda config: None, spaces=0, more=()):
    packed = zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(source) as old, packed as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config["config"])
                content = json.dumps(config).encode() + b" " * spaces
            new.writestr(name, content)
        for name, content in more:
            new.writestr(name, content)
    return target


def model():
    return keras.Sequential(
        [
            keras.Input((6,)),
            L.Embedding(10, 4, name="words"),
            L.LSTM(5, name="memory"),
            L.Dense(4, name="head"),
        ]
    )


@pytest.mark.parametrize(
    ("layer", "field", "value"),
    [
        (1, "input_dim", 2_000_000_000),
        (1, "output_dim", 5_000),
        (2, "units", 40_000),
        (3, "units", 20_000_000),
    ],
)
def test_a_config_that_asks_for_too_much(tmp_path, layer, field, value):
    model().save(tmp_path / "good.keras")

    def change(config):
        config["layers"][layer]["config"][field] = value

    bomb = changed(tmp_path / "good.keras", tmp_path / "bomb.keras", change)
    with pytest.raises(ArtifactError, match=r"config (asks for|cannot be built)"):
        load_model(bomb)


def test_parts_that_unpack_to_too_much(tmp_path):
    model().save(tmp_path / "good.keras")
    bomb = changed(tmp_path / "good.keras", tmp_path / "a.keras", spaces=1 << 26)
    with pytest.raises(ArtifactError, match=r"config\.json unpacks to"):
        load_model(bomb)
    more = [("assets/words/vocabulary.txt", b"a\n" * (1 << 25))]
    bomb = changed(tmp_path / "good.keras", tmp_path / "b.keras", more=more)
    with pytest.raises(ArtifactError, match=r"vocabulary\.txt unpacks to"):
        load_model(bomb)


@keras.saving.register_keras_serializable("tests.cli")
class Doubled(L.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_right_files_are_read(tmp_path):
    words = L.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)
    text = keras.Input((), dtype="string")
    models = [
        model(),
        keras.Model(text, L.Dense(2)(L.Embedding(5, 3)(words(text)))),
        keras.Sequential([keras.Input((8, 8, 3)), L.RandomFlip(), L.Conv2D(4, 3)]),
        keras.Sequential([keras.Input((3,)), Doubled()]),
        keras.Sequential([keras.Input((3,)), L.Dense(4, dtype="mixed_float16")]),
    ]
    for number, one in enumerate(models):
        one.save(tmp_path / f"{number}.keras")
        assert load_model(tmp_path / f"{number}.keras").count_params() == (
            one.count_params()
        )


def test_h5_files_that_ask_for_too_much(tmp_path):
    model().save(tmp_path / "good.h5")
    assert load_model(tmp_path / "good.h5").count_params() == model().count_params()
    shutil.copy(tmp_path / "good.h5", tmp_path / "bomb.h5")
    with h5py.File(tmp_path / "bomb.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][-1]["config"]["units"] = 20_000_000
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ArtifactError, match="config cannot be built"):
        load_model(tmp_path / "bomb.h5")
    keras.Sequential([keras.Input((3,)), Doubled()]).save(tmp_path / "own.h5")
    load_model(tmp_path / "own.h5")
