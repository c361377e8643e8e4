"""Every mistake gets a message that says what to do, before training starts."""

import keras
import numpy as np
import pytest

from tests.distillation.conftest import dense_model
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.teachers.ensemble import TeacherEnsemble

Logits = keras.distillation.LogitsDistillation
Features = keras.distillation.FeatureDistillation


def named(names, classes=(3, 2), as_dict=True):
    inputs = keras.Input((4,))
    outputs = {
        name: keras.layers.Dense(n, name=name)(inputs)
        for name, n in zip(names, classes)
    }
    return keras.Model(inputs, outputs if as_dict else list(outputs.values()))


def softmaxed(kind):
    inputs = keras.Input((4,))
    if kind == "dense":
        x = keras.layers.Dense(3, activation="softmax")(inputs)
    elif kind == "layer":
        x = keras.layers.Softmax()(keras.layers.Dense(3)(inputs))
    elif kind == "cast":
        x = keras.layers.Activation("softmax")(keras.layers.Dense(3)(inputs))
        x = keras.layers.Activation("linear", dtype="float32")(x)
    elif kind == "nested":
        x = softmaxed("dense")(inputs)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("kind", ["dense", "layer", "cast", "nested"])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_softmax_where_logits_are_needed(kind, role):
    models = {"teacher": dense_model(5), "student": dense_model(4)}
    models[role] = softmaxed(kind)
    with pytest.raises(
        InvalidArgumentError, match=r"ends in softmax.*What to do: set "
    ):
        Distiller(**models, distillation_losses=Logits())
    assert Distiller(**models, distillation_losses=Features("mse")).built


class Subclassed(keras.Model):
    def __init__(self, activation=None):
        super().__init__()
        self.dense = keras.layers.Dense(3, activation=activation)

    def call(self, inputs):
        return self.dense(inputs)


def test_softmax_of_a_model_without_a_graph():
    teachers = [Subclassed("softmax"), Subclassed()]
    for teacher in teachers:
        teacher(np.zeros((1, 4), "float32"))
    with pytest.raises(InvalidArgumentError, match=r"answers with probabilities.*let"):
        Distiller(teachers[0], dense_model(4), Logits())
    assert Distiller(teachers[1], dense_model(4), Logits()).built
    ensemble = TeacherEnsemble([dense_model(4), teachers[0]])
    with pytest.raises(InvalidArgumentError, match="answers with probabilities"):
        Distiller(ensemble, dense_model(4), Logits())


def test_advice_about_softmax_works():
    teacher = softmaxed("dense")
    teacher.layers[-1].activation = keras.activations.linear
    assert Distiller(teacher, dense_model(4), Logits()).built


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (lambda: dense_model(5, classes=4), dense_model(4), "same classes"),
        (lambda: named("ab"), lambda: named("ac"), "equal names"),
        (lambda: named("ab"), lambda: named("ab", as_dict=False), "equal names"),
        (
            lambda: named("ab", (3, 3), False),
            lambda: named("ba", (3, 3), False),
            "equal order",
        ),
        (lambda: named("ab"), lambda: named("ab", (3, 5)), "same classes"),
        (lambda: named("ab", as_dict=False), dense_model(4), "same classes"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), dense_model(4), "not been"),
        (lambda: print, dense_model(4), "teacher is not a Keras model"),
    ],
    ids=["classes", "keys", "kinds", "order", "second", "count", "unbuilt", "type"],
)
def test_models_that_do_not_fit(teacher, student, message):
    student = student() if not isinstance(student, keras.Model) else student
    loss = ["kl_divergence"] * 2 if "equal" in message else "kl_divergence"
    with pytest.raises(InvalidArgumentError, match=message):
        Distiller(teacher(), student, Logits(loss=loss))


def test_student_that_is_no_model():
    with pytest.raises(InvalidArgumentError, match="student is not a Keras model"):
        Distiller(dense_model(4), keras.layers.Dense(3), Logits())


def test_inputs_that_differ():
    teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    with pytest.raises(InvalidArgumentError, match="pass teacher_preprocessing"):
        Distiller(teacher, dense_model(4), Logits())


def test_models_that_share_weights():
    teacher = dense_model(4)
    student = keras.Sequential([keras.Input((4,)), *teacher.layers])
    with pytest.raises(InvalidArgumentError, match=r"share weights.*clone_model"):
        Distiller(teacher, student, Logits())


def test_teacher_with_nan(data):
    teacher = dense_model(4)
    distiller = Distiller(teacher, dense_model(4, 1), Logits())
    distiller.compile("sgd", "mse")
    teacher.layers[-1].bias.assign([0.0, np.nan, 0.0])
    before = distiller.student.get_weights()
    with pytest.raises(InvalidArgumentError, match=r"NaN or infinite.*logits/bias"):
        distiller.fit(data[0], np.zeros((32, 3)), verbose=0)
    for a, b in zip(before, distiller.student.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"student_loss_weight": 1.5}, r"Received: 1.5. Expected: in \[0, 1\]"),
        ({"student_loss_weight": "half"}, "Wrong student_loss_weight"),
        ({"distillation_loss_weights": [1.0, 2.0]}, "Expected: 1 finite number"),
        ({"distillation_loss_weights": [-1.0]}, "finite numbers >= 0"),
        ({"distillation_loss_weights": [np.nan]}, "finite numbers >= 0"),
        ({"distillation_losses": []}, "nothing to distil with"),
        ({"distillation_losses": None}, "nothing to distil with"),
        ({"distillation_losses": keras.losses.MeanSquaredError()}, "LogitsDist"),
        ({"distillation_losses": Features("mse", "nope", "hidden")}, "one of hidden,"),
    ],
)
def test_arguments(kwargs, message):
    kwargs = {"distillation_losses": Logits(), **kwargs}
    with pytest.raises(InvalidArgumentError, match=message):
        Distiller(dense_model(4), dense_model(4), **kwargs)


def test_layer_name_of_several_layers():
    def block(name):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(4, name="conv")], name=name
        )

    teacher = keras.Sequential([keras.Input((4,)), block("one"), block("two")])
    student = keras.Sequential([keras.Input((4,)), block("one")])
    with pytest.raises(InvalidArgumentError, match="paths one/conv, two/conv"):
        Distiller(teacher, student, Features("mse", "conv", "conv"))
    assert Distiller(teacher, student, Features("mse", "two/conv", "conv")).built


def test_features_of_unequal_width(data):
    loss = Features("mse", "hidden", "hidden")
    distiller = Distiller(dense_model(8), dense_model(6), loss)
    distiller.compile("sgd", "mse")
    with pytest.raises(
        InvalidArgumentError, match=r"teacher hidden: \(.*8\), student hidden: \(.*6\)"
    ):
        distiller.fit(data[0], np.zeros((32, 3)), verbose=0)


def test_no_labels_and_no_loss(data):
    distiller = Distiller(dense_model(4), dense_model(4), Logits())
    distiller.compile("sgd")
    with pytest.raises(InvalidArgumentError, match=r"a compiled loss.*_weight=0"):
        distiller.fit(*data, verbose=0)
    distiller.compile("sgd", "mse")
    with pytest.raises(InvalidArgumentError, match="without labels"):
        distiller.fit(data[0], verbose=0)


class Unsaveable(keras.distillation.DistillationLoss):
    """Keras asks for no config, and then fails when the file is loaded."""


def test_loss_that_cannot_be_saved(tmp_path):
    distiller = Distiller(dense_model(4), dense_model(4), Unsaveable())
    with pytest.raises(
        InvalidArgumentError, match=r"Unsaveable cannot be saved.*_conf"
    ):
        distiller.save(tmp_path / "distiller.keras")
