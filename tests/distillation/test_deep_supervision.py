"""A model whose early layers learn from its last one."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.distillation.conftest import dense_model
from tests.distillation.test_distiller import (
    assert_close,
    compiled_loss,
    copy_of,
    cross_entropy,
    divergence,
)
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation import deep_supervision
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.losses import DeepSupervision


def conv_model(seed, activation=None):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="first")(x)
    x = keras.layers.Conv2D(5, 3, activation="relu", name="second")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(3, activation=activation, name="logits")(x)
    return keras.Model(inputs, x)


@pytest.fixture
def images(rng):
    return rng.normal(size=(16, 6, 6, 1)).astype("float32"), np.arange(16) % 3


def heads_of(learner):
    return [
        [w.numpy() for w in (*loss.hidden.weights, *loss.classifier.weights)]
        for loss in learner.distillation_losses
    ]


@pytest.mark.parametrize("labels", ["numbers", "column", "one_hot"])
def test_loss_is_that_of_the_paper(images, labels):
    x, y = images
    model = conv_model(1)
    learner = deep_supervision(model, ["first", "second"], 0.4, 2.0)
    one_hot = labels == "one_hot"
    given = {"numbers": y, "column": y[:, None], "one_hot": np.eye(3)[y]}[labels]
    loss = keras.losses.CategoricalCrossentropy(True) if one_hot else compiled_loss()
    learner.compile("sgd", loss, run_eagerly=True)
    z = model.predict(x, verbose=0)
    expected = 0.0
    for name, (a, b, c, d) in zip(("first", "second"), heads_of(learner)):
        features = keras.Model(model.input, model.get_layer(name).output)(x).numpy()
        logits = np.maximum(features @ a + b, 0).mean((1, 2)) @ c + d
        true = cross_entropy(y, logits).mean()
        expected += 0.6 * true + 0.4 * divergence(z, logits, 2.0).mean()
    logs = learner.train_on_batch(x, given, return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-4)
    own = cross_entropy(y, z).mean()
    assert logs["loss"] == pytest.approx(0.5 * own + 0.5 * expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # which is the point
def test_the_last_layer_is_not_pulled_to_the_early_one(images):
    """Without labels' loss only what lies before the hidden layer may learn."""
    model = conv_model(1)
    before = copy_of(model)
    learner = deep_supervision(model, ["first"], student_loss_weight=0.0)
    learner.compile(keras.optimizers.SGD(0.5))
    learner.fit(*images, verbose=0)
    for name in ("second", "logits"):
        theirs = before.get_layer(name).get_weights()
        assert_close(model.get_layer(name).get_weights(), theirs, tolerance=0)
    moved = model.get_layer("first").kernel - before.get_layer("first").kernel
    assert float(ops.max(ops.abs(moved))) > 1e-4


def test_it_learns_is_saved_and_leaves_the_model_as_it_was_built(images, tmp_path):
    x, y = images[0], (images[0].mean((1, 2, 3)) > 0).astype("int32")
    model = conv_model(1)
    names = [weight.path for weight in model.weights]
    learner = deep_supervision(model, ["first", "second"], 0.1)
    learner.compile(keras.optimizers.Adam(0.02), compiled_loss(), metrics=["accuracy"])
    first = learner.train_on_batch(x, y, return_dict=True)
    history = learner.fit(x, y, epochs=15, verbose=0).history
    assert history["accuracy"][-1] > 0.9 > history["accuracy"][0]
    assert history["distillation_loss"][-1] < 0.8 * first["distillation_loss"]
    assert learner.student is model
    assert [weight.path for weight in model.weights] == names
    assert len(learner.trainable_variables) == len(model.weights) + 2 * 4
    model.compile("sgd", compiled_loss(), metrics=["accuracy"])
    assert learner.evaluate(x, y, verbose=0) == pytest.approx(
        model.evaluate(x, y, verbose=0), rel=1e-5
    )
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert loaded.teacher is None
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0}
    ours, theirs = (m.fit(x, y, **kwargs).history for m in (loaded, learner))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_next_to_a_teacher_and_by_a_layer_of_it(images):
    x, y = images
    teacher, student = conv_model(1), conv_model(2)
    losses = ["soft_labels", DeepSupervision("first")]
    distiller = Distiller(teacher, student, losses)
    distiller.compile("sgd", compiled_loss(), run_eagerly=True)
    (a, b, c, d) = heads_of(Distiller(None, student, losses[1]))[0]
    features = keras.Model(student.input, student.get_layer("first").output)(x)
    logits = np.maximum(features.numpy() @ a + b, 0).mean((1, 2)) @ c + d
    t, s = (m.predict(x, verbose=0) for m in (teacher, student))
    own = (
        0.7 * cross_entropy(y, logits).mean() + 0.3 * divergence(s, logits, 3.0).mean()
    )
    logs = distiller.train_on_batch(x, y, return_dict=True)
    expected = own + divergence(t, s, 3.0).mean()
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-4)
    by_teacher = DeepSupervision("first", 1.0, teacher_layer_name="logits")
    values = by_teacher.compute_loss(ops.array(t), features)
    distiller = Distiller(teacher, student, by_teacher)
    distiller.compile("sgd", compiled_loss(), run_eagerly=True)
    s = student.predict(x, verbose=0)
    features = keras.Model(student.input, student.get_layer("first").output)(x)
    values = by_teacher.compute_loss(ops.array(t), features)
    logs = distiller.train_on_batch(x, y, return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(float(values), rel=1e-4)


def test_every_step_of_a_sequence_has_its_own_classifier_output(rng):
    x = rng.normal(size=(4, 5, 2)).astype("float32")
    y = rng.integers(0, 3, (4, 5))
    inputs = keras.Input((5, 2))
    hidden = keras.layers.Dense(4, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    learner = deep_supervision(model, "hidden", teaching_weight=0.0)
    learner.compile("sgd", compiled_loss(), run_eagerly=True)
    (a, b, c, d) = heads_of(learner)[0]
    features = keras.Model(inputs, hidden)(x).numpy()
    logits = (np.maximum(features @ a + b, 0) @ c + d).reshape(20, 3)
    logs = learner.train_on_batch(x, y, return_dict=True)
    expected = cross_entropy(y.ravel(), logits).mean()
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: deep_supervision(conv_model(1), []), "needs layers to supervise"),
        (lambda: deep_supervision(conv_model(1), ["third"]), ", first, second, "),
        (lambda: deep_supervision(conv_model(1), ["first"], 1.5), "teaching_weight"),
        (lambda: deep_supervision(conv_model(1), ["first"], 0.3, 0), "temperature"),
        (
            lambda: Distiller(None, dense_model(4), "deep_supervision"),
            "one hidden layer",
        ),
        (
            lambda: deep_supervision(conv_model(1, "softmax"), ["first"]),
            "ends in softmax",
        ),
        (lambda: Distiller(None, dense_model(4), "soft_labels"), "needs a teacher"),
        (
            lambda: Distiller(
                None, dense_model(4), DeepSupervision("hidden", 0.3, 3.0, "logits")
            ),
            "needs a teacher",
        ),
        (
            lambda: DeepSupervision("x").compute_loss(
                ops.ones((2, 5, 3)), ops.ones((2, 3))
            ),
            "fewer axes than the output",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()
