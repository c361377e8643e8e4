"""Archives: the same bytes for every format, and nothing written from a bad one."""

import io
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress
from tfcompress import pack, unpack
from tfcompress.packing import archive, blocks
from tfcompress.packing.spans import find_spans


@pytest.fixture(scope="module")
def model():
    generator = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((40,), name="x"),
            layers.Dense(60, activation="relu", name="hidden"),
            layers.Dense(4, name="logits"),
        ]
    )
    shape = (40, 60)
    values = generator.choice(generator.normal(size=7), shape)
    values = np.where(generator.random(shape) < 0.9, 0, values)
    model.layers[0].kernel.assign(values)
    return model


def content(path):
    if path.is_file():
        return path.read_bytes()
    return {
        p.relative_to(path).as_posix(): p.read_bytes() if p.is_file() else None
        for p in path.rglob("*")
    }


def saved(model, folder, kind):
    if kind == "keras":
        model.save(folder / "model.keras")
        return folder / "model.keras"
    if kind == "tflite":
        return tfcompress.export(model, folder / "model.tflite").path
    return tfcompress.export(model, folder / "model" / "1", format="saved_model").path


@pytest.mark.export
@pytest.mark.parametrize("kind", ["keras", "tflite", "saved_model"])
def test_what_comes_out_is_what_went_in(model, tmp_path, kind):
    path = saved(model, tmp_path, kind)
    packed = pack(path, tmp_path / "packed")
    back = unpack(packed, tmp_path / "back")
    assert back.name == path.name
    assert content(back) == content(path)
    assert packed.size == (tmp_path / "packed").stat().st_size
    files = [back] if back.is_file() else [p for p in back.rglob("*") if p.is_file()]
    assert packed.original_size == sum(p.stat().st_size for p in files)
    # The arrays were found, not only compressed as bytes.
    spans = [span for file in files for span in find_spans(file)]
    assert (40 * 60, 4) in [(s.rows * s.columns, s.width) for s in spans]


def test_a_stream_that_cannot_seek(tmp_path):
    class Pipe(io.RawIOBase):
        def __init__(self, data=b""):
            self.data = data

        def write(self, data):
            self.data += bytes(data)
            return len(data)

        def read(self, size=-1):
            part, self.data = self.data[:size], self.data[size:]
            return part

    (tmp_path / "some.bin").write_bytes(os.urandom(1000))
    pipe = Pipe()
    packed = pack(tmp_path / "some.bin", pipe)
    assert packed.path is None
    assert packed.size == len(pipe.data)
    back = unpack(pipe, tmp_path / "back")
    assert back.read_bytes() == (tmp_path / "some.bin").read_bytes()


def test_files_larger_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "BLOCK", 1000)
    model = keras.Sequential([keras.Input((30,)), layers.Dense(70)])
    model.save(tmp_path / "m.keras")
    pack(tmp_path / "m.keras", tmp_path / "packed")
    back = unpack(tmp_path / "packed", tmp_path / "back")
    assert back.read_bytes() == (tmp_path / "m.keras").read_bytes()


def test_an_archive_of_a_clustered_model_is_small(model, tmp_path):
    model.save(tmp_path / "m.keras")
    kernel = model.layers[0].kernel.numpy()
    packed = pack(tmp_path / "m.keras", tmp_path / "packed")
    plain = len(json.dumps(model.get_config()))  # what else is in the file
    assert packed.original_size > kernel.nbytes
    assert packed.size < plain + 3500


def test_progress_ends_with_all_bytes(model, tmp_path):
    path = saved(model, tmp_path, "keras")
    told = []
    packed = pack(path, tmp_path / "packed", progress=lambda *two: told.append(two))
    done, totals = zip(*told)
    assert set(totals) == {packed.original_size}
    assert list(done) == sorted(done)
    assert done[-1] == packed.original_size
    assert len(told) > len(find_spans(path))  # array by array


def test_arrays_of_a_checkpoint_are_where_its_index_says(tmp_path, rng, monkeypatch):
    """Arrays of zeros are found each in its place, and no array has to be read."""
    arrays = [np.zeros((20, 30)), rng.normal(size=(9, 9)), np.zeros((20, 30))]
    arrays += [rng.normal(size=(2, 3, 50)).astype("float32"), np.zeros((20, 30))]
    module = tf.Module()
    module.held = {str(at): tf.Variable(one) for at, one in enumerate(arrays)}
    tf.train.Checkpoint(module).write(str(tmp_path / "variables"))
    monkeypatch.setattr(tf.train, "load_checkpoint", None)
    (path,) = tmp_path.glob("*.data-*")
    spans = find_spans(path)
    content = path.read_bytes()
    assert sorted(content[span.start : span.end] for span in spans) == sorted(
        array.tobytes() for array in arrays
    )
    assert {(span.width, span.rows, span.columns) for span in spans} == {
        (8, 20, 30),
        (8, 9, 9),
        (4, 6, 50),
    }


@pytest.mark.parametrize("change", ["cut", "compressed", "other", "lying", "endless"])
def test_a_damaged_index_makes_bytes_of_the_arrays(tmp_path, change):
    module = tf.Module()
    module.held = {str(at): tf.Variable(np.ones((20, 30))) for at in range(3)}
    tf.train.Checkpoint(module).write(str(tmp_path / "variables"))
    (path,), index = tmp_path.glob("*.data-*"), tmp_path / "variables.index"
    assert len(find_spans(path)) == 3
    content = bytearray(index.read_bytes())
    if change == "cut":
        content = content[: len(content) // 2]
    elif change == "compressed":
        content = content.replace(b"\x01\x00\x00\x00\x00", b"\x01\x00\x00\x00\x01")
    elif change == "other":
        content[-1] ^= 1
    elif change == "lying":
        content[-48] ^= 255
    else:
        content[:-8] = b"\xff" * (len(content) - 8)
    index.write_bytes(content)
    assert find_spans(path) == []


@pytest.fixture
def packed(tmp_path):
    folder = tmp_path / "artifact"
    (folder / "empty").mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(range(200)) * 20)
    (folder / "b.bin").write_bytes(b"second")
    pack(folder, tmp_path / "packed")
    return tmp_path / "packed"


def refused(tmp_path, data, message, **options):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(tfcompress.ArtifactError, match=message):
        unpack(io.BytesIO(data), tmp_path / "out", **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_every_flipped_bit_and_every_cut_is_found(packed, tmp_path):
    data = packed.read_bytes()
    assert unpack(io.BytesIO(data), tmp_path / "good").is_dir()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        refused(tmp_path, bytes(changed), "cannot be unpacked")
    for size in range(0, len(data), 7):
        refused(tmp_path, data[:size], "cannot be unpacked")
    refused(tmp_path, data + b"x", "something follows its end")


def forged(manifest, *frames):
    """An archive with right checksums and a content of one's choice."""
    text = json.dumps(manifest).encode()
    parts = [(1, len(text), blocks.encode(text, [])), *frames]
    data = archive.SIGNATURE + bytes([archive.VERSION])
    for kind, before, payload in parts:
        head = archive._FRAME.pack(
            kind, before, len(payload), archive.zlib.crc32(payload)
        )
        data += head + payload
    return data


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/../../x", "C:/x", "a\\..\\x", "a//b", ".", "a\x00b", ""],
)
def test_paths_that_lead_elsewhere(tmp_path, name):
    refused(tmp_path, forged(["m", [["ok", 1], [name, 1]], []]), "it names the path")
    refused(tmp_path, forged(["m", [["ok", 1]], [name]]), "it names the path")
    refused(tmp_path, forged([name, [["", 1]], []]), "it names the path")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (["m", [["a", 1], ["a", 1]], []], "twice"),
        (["m", [["a", 1], ["A", 1]], []], "twice"),
        (["m", [["a", 1], ["a/b", 1]], []], "twice"),
        (["m", [["a", 2**50]], []], "more than max_size"),
        (["m", [["a", -5]], []], "claims -5 bytes"),
        (["m", [["a"]], []], "manifest cannot be read"),
        ({"m": 1}, "manifest cannot be read"),
        ([[[]]], "manifest cannot be read"),
    ],
)
def test_manifests_that_lie(tmp_path, manifest, message):
    refused(tmp_path, forged(manifest), message)


def test_blocks_that_lie(tmp_path):
    refused(tmp_path, forged(["m", [["a", 9]], []]), "truncated")
    block = (2, 9, blocks.encode(b"123456789", []))
    refused(tmp_path, forged(["m", [["a", 8]], []], block), "a frame claims 9")
    wrong = (0, 0, bytes(32))
    refused(tmp_path, forged(["m", [["a", 9]], []], block, wrong), "its checksum")
    refused(tmp_path, forged(["m", [["a", 9]], []], wrong), "a block is missing")
    huge = archive._FRAME.pack(2, 2**31, 10, 0)
    refused(tmp_path, forged(["m", [["a", 9]], []]) + huge, "a frame claims")


def test_limits_and_versions(packed, tmp_path):
    data = packed.read_bytes()
    refused(tmp_path, data, "more than max_size=100", max_size=100)
    newer = data[:4] + bytes([9]) + data[5:]
    refused(tmp_path, newer, "it has version 9, known is 1")
    refused(tmp_path, b"PK\x03\x04 something else", "does not begin like an archive")
    with pytest.raises(ValueError, match="`max_size` must be a number of bytes"):
        unpack(packed, tmp_path, max_size=0)


def test_what_cannot_be_packed_or_placed(packed, tmp_path):
    with pytest.raises(tfcompress.ArtifactError, match="nothing to pack"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(tfcompress.ArtifactError, match="there is no such file"):
        unpack(tmp_path / "nowhere", tmp_path)
    (tmp_path / "artifact" / "link").symlink_to("/etc")
    with pytest.raises(tfcompress.ArtifactError, match="with links in it"):
        pack(tmp_path / "artifact", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(tfcompress.ExportError, match="exists already"):
        unpack(packed, tmp_path)
    with pytest.raises(tfcompress.ExportError, match="exists already"):
        pack(packed, packed)
