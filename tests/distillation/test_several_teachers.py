"""Ensembles, chains of assistants, generations, and students started from teachers."""

import itertools

import keras
import numpy as np
import pytest

from tests.distillation.conftest import dense_model
from tests.distillation.test_distiller import compiled_loss
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.generations import born_again, distill_chain
from tfcompress.distillation.initialization import initialize_from
from tfcompress.distillation.teachers.ensemble import TeacherEnsemble


def test_mean_of_teachers(data):
    x, _ = data
    teachers = [dense_model(5, seed) for seed in (1, 2, 3)]
    outputs = [t.predict(x, verbose=0) for t in teachers]
    mean = TeacherEnsemble(teachers)(x).numpy()
    np.testing.assert_allclose(mean, np.mean(outputs, 0), rtol=1e-5, atol=1e-6)
    weighted = TeacherEnsemble(teachers, weights=[1, 0, 3])(x).numpy()
    expected = 0.25 * outputs[0] + 0.75 * outputs[2]
    np.testing.assert_allclose(weighted, expected, rtol=1e-5, atol=1e-6)


def test_sampled_teachers(data):
    x = np.repeat(data[0], 40, axis=0)
    teachers = [dense_model(5, seed) for seed in (1, 2)]
    ensemble = TeacherEnsemble(teachers, [1, 3], mode="sample", seed=7)
    answer = ensemble(x).numpy()
    first, second = (np.abs(t(x).numpy() - answer).max(-1) < 1e-6 for t in teachers)
    assert (first | second).all()
    assert second.mean() == pytest.approx(0.75, abs=0.05)


def test_ensemble_teaches_and_is_saved(data, tmp_path):
    x, y = data
    ensemble = TeacherEnsemble([dense_model(5, seed) for seed in (1, 2)])
    distiller = Distiller(ensemble, dense_model(4, 3), "soft_labels")
    distiller.compile("adam", compiled_loss(), run_eagerly=True)
    distiller.train_on_batch(x, y)
    assert len(distiller.trainable_variables) == 4
    distiller.save(tmp_path / "d.keras")
    loaded = keras.models.load_model(tmp_path / "d.keras")
    np.testing.assert_allclose(loaded.teacher(x), ensemble(x), rtol=1e-6)


def train(distiller):
    distiller.compile(keras.optimizers.Adam(0.05), compiled_loss(), run_eagerly=True)
    x = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")
    for _ in range(30):
        distiller.train_on_batch(x, np.zeros(32))


def test_chain_teaches_from_model_to_model(teacher):
    seen = []

    def remember(distiller):
        seen.append((distiller.teacher, distiller.student))
        train(distiller)

    models = [dense_model(6, 5), dense_model(4, 6)]
    students = distill_chain(teacher, models, remember, student_loss_weight=0.0)
    assert seen == [(teacher, models[0]), (models[0], models[1])]
    x = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")
    agreement = students[-1](x).numpy().argmax(-1) == teacher(x).numpy().argmax(-1)
    assert agreement.mean() > 0.8


def test_born_again_generations_are_fresh_copies(teacher):
    before = teacher.get_weights()
    students = born_again(teacher, lambda d: None, generations=2)
    assert [s.count_params() for s in students] == [teacher.count_params()] * 2
    kernels = [m.get_layer("hidden").kernel.numpy() for m in (teacher, *students)]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(kernels))
    np.testing.assert_array_equal(teacher.get_weights()[0], before[0])


def deep(width, depth, name):
    keras.utils.set_random_seed(depth)
    x = inputs = keras.Input((8, 8, 1))
    for i in range(depth):
        x = keras.layers.Conv2D(width, 3, padding="same", name=f"conv{i}")(x)
        x = keras.layers.BatchNormalization(name=f"norm{i}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x), name=name)


def test_student_of_equal_size_becomes_the_teacher(rng):
    teacher, student = deep(4, 3, "teacher"), deep(4, 3, "student")
    teacher.get_layer("norm1").moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    initialize_from(teacher, student)
    x = rng.normal(size=(2, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(student(x), teacher(x), atol=1e-6)


def test_layers_are_evenly_spaced_and_widths_sliced():
    teacher, student = deep(8, 5, "teacher"), deep(4, 3, "student")
    pairs = initialize_from(teacher, student)
    convs = {mine: yours for mine, yours in pairs.items() if mine.startswith("conv")}
    # The first convolution sees one channel, and is of the same kind all the same.
    assert convs == {"conv0": "conv0", "conv1": "conv2", "conv2": "conv4"}
    ours = student.get_layer("conv1").kernel.numpy()
    theirs = teacher.get_layer("conv2").kernel.numpy()
    np.testing.assert_array_equal(ours, theirs[:, :, ::2, ::2])
    ours, theirs = (m.get_layer("head").kernel.numpy() for m in (student, teacher))
    np.testing.assert_array_equal(ours, theirs[::2])


def test_pairs_by_hand():
    teacher, student = deep(4, 3, "teacher"), deep(4, 2, "student")
    kept = student.get_layer("conv0").kernel.numpy()
    assert initialize_from(teacher, student, {"conv1": "conv1"}) == {"conv1": "conv1"}
    np.testing.assert_array_equal(student.get_layer("conv0").kernel.numpy(), kept)
    np.testing.assert_array_equal(
        *(m.get_layer("conv1").kernel.numpy() for m in (student, teacher))
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TeacherEnsemble([]), "needs teachers"),
        (lambda: TeacherEnsemble([dense_model(4)], [1, 2]), "1 teachers, 2 weights"),
        (lambda: TeacherEnsemble([dense_model(4)], [0]), "not all of them 0"),
        (lambda: TeacherEnsemble([dense_model(4)], mode="vote"), "'mean' or 'sample'"),
        (lambda: distill_chain(dense_model(4), [], train), "no student"),
        (lambda: born_again(dense_model(4), train, 0), "an int > 0"),
        (
            lambda: initialize_from(dense_model(4), dense_model(4), {"a": "hidden"}),
            "one of hidden, logits",
        ),
        (
            lambda: initialize_from(
                deep(2, 1, "t"), deep(2, 1, "s"), {"conv0": "head"}
            ),
            "weights of equal rank",
        ),
        (
            lambda: initialize_from(
                dense_model(4),
                keras.Sequential([keras.Input((4, 1)), keras.layers.LSTM(3)]),
            ),
            "No layer of the student",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
