"""The cached teacher teaches what the live one does, and nothing else gets by."""

import errno
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.distillation.conftest import dense_model
from tests.distillation.test_distiller import Counting, assert_close, compiled_loss
from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.teachers import cache as teacher_cache
from tfcompress.distillation.teachers import cache_files
from tfcompress.distillation.teachers.cache import cache_teacher
from tfcompress.distillation.teachers.files import TFLiteTeacher

Features = keras.distillation.FeatureDistillation


def counting_teacher(seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,)),
            Counting(name="counting"),
            keras.layers.Dense(6, name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def calls(teacher):
    return int(teacher.get_layer("counting").count)


@pytest.fixture
def batches(data):
    x, y = data
    weight = np.linspace(0, 2, 32).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(5)  # 5 * 6 + 2


def fitted(teacher, dataset, losses, preprocessing=None, **kwargs):
    student = dense_model(6, 2)
    distiller = Distiller(teacher, student, losses, teacher_preprocessing=preprocessing)
    distiller.compile("adam", compiled_loss())
    history = distiller.fit(dataset, epochs=2, verbose=0, **kwargs).history
    return distiller, history


def test_cached_equals_live_and_the_teacher_runs_once(batches, tmp_path):
    teacher = counting_teacher()
    losses = ["soft_labels", Features("mse", "hidden", "hidden")]
    live, theirs = fitted(teacher, batches, losses)
    before = calls(teacher)
    cached = cache_teacher(teacher, batches, tmp_path, ["hidden"], "float32")
    assert calls(teacher) - before == 7
    distiller, ours = fitted(teacher, cached, losses)
    assert calls(teacher) - before == 7
    assert_close(distiller.student.get_weights(), live.student.get_weights())
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    x = np.concatenate([batch[0] for batch in batches])
    expected = distiller.student.predict(x, verbose=0)
    assert_close([distiller.predict(cached, verbose=0)], [expected])
    assert distiller.evaluate(cached, verbose=0) == pytest.approx(
        distiller.evaluate(batches, verbose=0), rel=1e-6
    )
    again = cache_teacher(teacher, batches, tmp_path, ["hidden"], "float32")
    assert calls(teacher) - before == 7
    np.testing.assert_array_equal(
        *(next(iter(d))[0]["teacher_outputs"] for d in (cached, again))
    )


def test_shuffling_and_repeating_keep_outputs_with_their_samples(batches, tmp_path):
    teacher = dense_model(6, 1)
    cached = cache_teacher(teacher, batches, tmp_path)
    mixed = cached.unbatch().shuffle(32, seed=1).repeat(2).batch(8)
    seen = 0
    for x, _, _ in mixed:
        expected = teacher(x["inputs"]).numpy()
        np.testing.assert_allclose(x["teacher_outputs"], expected, atol=2e-3)
        seen += len(expected)
    assert seen == 64
    steps = {"steps_per_epoch": 8}
    _, history = fitted(teacher, mixed.repeat(), "soft_labels", **steps)
    assert np.isfinite(history["loss"]).all()


def test_a_killed_run_is_resumed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "_COMMIT_EVERY", 2)
    teacher, (x, y) = counting_teacher(), data
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    append = cache_files.CacheFiles.append

    def dying(self, arrays, checksum):
        if len(self.batches) == 5:
            raise KeyboardInterrupt
        append(self, arrays, checksum)

    monkeypatch.setattr(cache_files.CacheFiles, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        cache_teacher(teacher, batches, tmp_path)
    monkeypatch.setattr(cache_files.CacheFiles, "append", append)
    header = json.loads((tmp_path / "cache.json").read_text())
    assert (header["complete"], len(header["batches"])) == (False, 4)
    assert (tmp_path / "0.bin").stat().st_size == 5 * 4 * 3 * 2  # one not committed
    before = calls(teacher)
    cached = cache_teacher(teacher, batches, tmp_path)
    assert calls(teacher) - before == 4
    for inputs, _ in cached:
        expected = teacher(inputs["inputs"]).numpy()
        np.testing.assert_allclose(inputs["teacher_outputs"], expected, atol=2e-3)


def test_preprocessing_is_the_teachers_alone(batches, tmp_path):
    teacher, scale = dense_model(6, 1), keras.layers.Rescaling(10.0)
    logs = [
        fitted(teacher, batches, "soft_labels", scale),
        fitted(
            teacher, cached_scaled(teacher, batches, tmp_path, scale), "soft_labels"
        ),
    ]
    assert logs[0][1]["loss"] == pytest.approx(logs[1][1]["loss"], rel=1e-5)
    for x, _, _ in cached_scaled(teacher, batches, tmp_path, scale):
        expected = teacher(10.0 * x["inputs"]).numpy()
        np.testing.assert_allclose(x["teacher_outputs"], expected, rtol=1e-4)
    with pytest.raises(ArtifactError, match=r"for another teacher\."):
        cached_scaled(teacher, batches, tmp_path, keras.layers.Rescaling(9.0))


def cached_scaled(teacher, batches, path, scale):
    return cache_teacher(
        teacher, batches, path, dtype="float32", teacher_preprocessing=scale
    )


def test_structures_of_inputs_and_outputs(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((2,), name="b")}
    joined = keras.layers.Concatenate()(list(inputs.values()))

    def model():
        return keras.Model(
            inputs, {n: keras.layers.Dense(3, name=n)(joined) for n in ("u", "v")}
        )

    teacher, student = model(), model()
    x = {"a": np.random.rand(8, 4), "b": np.random.rand(8, 2)}
    y = {"u": np.zeros(8), "v": np.zeros(8)}
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    logs = []
    for dataset in (batches, cache_teacher(teacher, batches, tmp_path, (), "float32")):
        distiller = Distiller(teacher, student, {"u": "soft_labels", "v": "logits_mse"})
        distiller.compile(
            keras.optimizers.SGD(0.0), {"u": compiled_loss(), "v": compiled_loss()}
        )
        logs.append(distiller.fit(dataset, verbose=0).history["distillation_loss"][0])
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def shuffled(batches):
    return batches.unbatch().shuffle(32).batch(5)


def jittered(batches):
    def jitter(x):
        return (x + np.random.normal(size=x.shape)).astype("float32")

    return batches.map(
        lambda x, y, w: (
            tf.ensure_shape(tf.numpy_function(jitter, [x], x.dtype), x.shape),
            y,
            w,
        )
    )


@pytest.mark.parametrize("spoil", [shuffled, jittered])
def test_random_data_is_refused(batches, tmp_path, spoil):
    with pytest.raises(InvalidArgumentError, match="shuffle and augment what cache_t"):
        cache_teacher(dense_model(6), spoil(batches), tmp_path)


def test_seeded_data_is_taken(batches, tmp_path):
    seeded = batches.unbatch().shuffle(32, seed=1, reshuffle_each_iteration=False)
    seeded = seeded.batch(5).map(
        lambda x, y, w: (x + tf.random.stateless_normal(tf.shape(x), (1, 2)), y, w)
    )
    teacher = dense_model(6)
    for x, _, _ in cache_teacher(teacher, seeded, tmp_path):
        expected = teacher(x["inputs"]).numpy()
        np.testing.assert_allclose(x["teacher_outputs"], expected, atol=5e-3)


def test_another_data_set_is_found_out(batches, tmp_path):
    teacher = dense_model(6)
    cache_teacher(teacher, batches, tmp_path)
    other = batches.map(lambda x, y, w: (tf.where(x > 2.0, 0.0, x), y, w))
    with pytest.raises(tf.errors.OpError, match="not the one the teacher saw"):
        for _ in cache_teacher(teacher, other, tmp_path):
            pass


def test_another_teacher_is_found_out(batches, tmp_path):
    teacher = dense_model(6)
    cache_teacher(teacher, batches, tmp_path)
    teacher.get_layer("logits").bias.assign([0.0, 0.0, 1e-6])
    with pytest.raises(ArtifactError, match=r"for another teacher\..*delete"):
        cache_teacher(teacher, batches, tmp_path)


def test_a_distiller_with_another_teacher_is_found_out(batches, tmp_path):
    cached = cache_teacher(dense_model(6, 1), batches, tmp_path).shuffle(9).repeat(2)
    fitted(dense_model(6, 1), cached, "soft_labels")  # as good as the same
    with pytest.raises(InvalidArgumentError, match="outputs of another teacher"):
        fitted(dense_model(6, 2), cached, "soft_labels")


def test_other_layers_and_dtypes_are_found_out(batches, tmp_path):
    teacher = dense_model(6)
    cache_teacher(teacher, batches, tmp_path)
    with pytest.raises(ArtifactError, match="for another layers"):
        cache_teacher(teacher, batches, tmp_path, ["hidden"])
    with pytest.raises(ArtifactError, match="for another dtype"):
        cache_teacher(teacher, batches, tmp_path, dtype="float32")
    loss = Features("mse", "hidden", "hidden")
    with pytest.raises(InvalidArgumentError, match=r"layers \['hidden'\] too"):
        fitted(teacher, cache_teacher(teacher, batches, tmp_path), loss)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: os.truncate(p / "0.bin", 60), "cut short. Received: 60 bytes"),
        (lambda p: (p / "0.bin").unlink(), "cut short. Received: 0 bytes"),
        (lambda p: flip(p / "0.bin"), "checksum is wrong"),
        (lambda p: os.truncate(p / "cache.json", 30), "description.*is damaged"),
        (lambda p: (p / "cache.json").unlink(), "is not a teacher cache"),
    ],
    ids=["short", "missing", "flipped", "header", "foreign"],
)
def test_damage_is_found(batches, tmp_path, damage, message):
    teacher = dense_model(6)
    cache_teacher(teacher, batches, tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        cache_teacher(teacher, batches, tmp_path)


def flip(path):
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


def test_full_disk(batches, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left.*goes on after the last"):
        cache_teacher(dense_model(6), batches, tmp_path)


@pytest.mark.parametrize(
    ("dataset", "kwargs", "message"),
    [
        (lambda d: d.repeat(), {}, "never ends.*call repeat"),
        (lambda d: d.take(0), {}, "is empty"),
        (lambda d: list(d), {}, "Only a tf.data.Dataset"),
        (lambda d: d, {"dtype": "int8"}, "'float16' or 'float32'"),
        (lambda d: d.unbatch(), {}, r"single samples.*\(4,\).*batch\(128\)"),
        (lambda d: d, {"layers": "hidden"}, "a list of names"),
        (
            lambda d: d.map(lambda x, y, w: (x * 1e6, y, w)),
            {},
            "do not fit into float16.*pass dtype='float32'",
        ),
    ],
)
def test_bad_input(batches, tmp_path, dataset, kwargs, message):
    with pytest.raises(InvalidArgumentError, match=message):
        cache_teacher(dense_model(6), dataset(batches), tmp_path, **kwargs)


def test_teacher_with_nan_is_not_cached(batches, tmp_path):
    teacher = dense_model(6)
    teacher.get_layer("logits").bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(InvalidArgumentError, match="NaN or infinite"):
        cache_teacher(teacher, batches, tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A teacher as a SavedModel, a .tflite file and one with a batch of three."""
    teacher = dense_model(6, 1)
    path = tmp_path_factory.mktemp("teacher")
    for name, batch in (("any", None), ("three", 3)):
        spec = [keras.InputSpec(shape=(batch, 4), dtype="float32")]
        teacher.export(path / name, input_signature=spec, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path / name))
        (path / f"{name}.tflite").write_bytes(converter.convert())
    return teacher, path


@pytest.mark.sweep(2)
@pytest.mark.parametrize("kind", ["saved_model", "any", "three"])
def test_files_as_teachers(exported, batches, tmp_path, kind):
    model, path = exported
    if kind == "saved_model":
        teacher = keras.layers.TFSMLayer(str(path / "any"), call_endpoint="serve")
    else:
        teacher = TFLiteTeacher(path / f"{kind}.tflite")
    _, theirs = fitted(model, batches, "soft_labels")
    distiller, ours = fitted(teacher, batches, "soft_labels")
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert len(distiller.trainable_variables) == 4
    cached = cache_teacher(teacher, batches, tmp_path, dtype="float32")
    assert fitted(teacher, cached, "soft_labels")[1]["loss"] == pytest.approx(
        theirs["loss"], rel=1e-4
    )
    if kind != "saved_model":
        x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
        np.testing.assert_allclose(teacher(x), model(x), rtol=1e-4, atol=1e-5)
    if kind == "any":
        again = Distiller.from_config(distiller.get_config()).teacher
        assert again.fingerprint == teacher.fingerprint


def test_softmax_in_a_file_is_found(tmp_path):
    model = dense_model(6, 1)
    model.add(keras.layers.Softmax())
    model.export(tmp_path / "model", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model"))
    (tmp_path / "model.tflite").write_bytes(converter.convert())
    teacher = TFLiteTeacher(tmp_path / "model.tflite")
    with pytest.raises(InvalidArgumentError, match="answers with probabilities"):
        Distiller(teacher, dense_model(6, 2), "soft_labels")


def test_file_that_is_no_teacher(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"nothing like a model")
    for name in ("x.tflite", "y.tflite"):
        with pytest.raises(ArtifactError, match=r"cannot be loaded.*a .tflite model"):
            TFLiteTeacher(tmp_path / name)


def test_a_cache_of_another_data_set_is_told_at_once(tmp_path):
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")

    def batches(values):
        return tf.data.Dataset.from_tensor_slices(values).batch(8)

    cache_teacher(teacher, batches(x), tmp_path / "cache")
    with pytest.raises(InvalidArgumentError, match="made of another data set"):
        cache_teacher(teacher, batches(x[::-1].copy()), tmp_path / "cache")
    cache_teacher(teacher, batches(x), tmp_path / "cache")
