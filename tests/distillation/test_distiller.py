"""The distiller does what a student's own fit does, plus the distillation terms."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.distillation.conftest import dense_model
from tfcompress.distillation.distiller import Distiller

Logits = keras.distillation.LogitsDistillation
Features = keras.distillation.FeatureDistillation


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence(teacher, student, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(-1)


def cross_entropy(y, logits):
    return -np.log(softmax(logits)[np.arange(len(y)), y])


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def weights_after_step(distiller, x, y, **kwargs):
    """Returns the student's weights after one step of plain SGD: its gradients."""
    distiller.compile(keras.optimizers.SGD(1.0), compiled_loss(), run_eagerly=True)
    distiller.train_on_batch(x, y, **kwargs)
    return distiller.student.get_weights()


def compiled_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_loss_is_the_documented_sum(teacher, data):
    x, y = data
    student = dense_model(6, 2, kernel_regularizer=keras.regularizers.L2(0.1))
    distiller = Distiller(teacher, student, Logits(3.0), [2.0], 0.3)
    distiller.compile("sgd", compiled_loss())
    t, s = teacher.predict(x, verbose=0), student.predict(x, verbose=0)
    decay = 0.1 * (student.get_layer("hidden").get_weights()[0] ** 2).sum()
    supervised = cross_entropy(y, s).mean()
    distilled = 2.0 * divergence(t, s, 3.0).mean()
    logs = distiller.train_on_batch(x, y, return_dict=True)
    expected = 0.3 * supervised + 0.7 * distilled + decay
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["student_loss"] == pytest.approx(supervised + decay, rel=1e-5)
    assert logs["distillation_loss"] == pytest.approx(distilled, rel=1e-5)


def test_without_distillation_it_trains_as_the_student(teacher, data):
    x, y = data
    student = dense_model(6, 2, kernel_regularizer=keras.regularizers.L2(0.1))
    alone = copy_of(student)
    distiller = Distiller(teacher, student, Logits(), student_loss_weight=1.0)
    for model in (alone, distiller):
        model.compile("adam", compiled_loss(), metrics=["accuracy"])
    kwargs = {"epochs": 3, "batch_size": 8, "shuffle": False, "verbose": 0}
    ours = distiller.fit(x, y, **kwargs).history
    theirs = alone.fit(x, y, **kwargs).history
    assert_close(student.get_weights(), alone.get_weights())
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["student_loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["accuracy"] == theirs["accuracy"]


@pytest.mark.parametrize(
    "loss",
    [
        Logits(2.0),
        Logits(2.0, keras.losses.KLDivergence()),
        Logits(2.0, "categorical_crossentropy"),
        Logits(2.0, "mse"),
        Features(keras.losses.MeanAbsoluteError()),
        Features("mse", "hidden", "hidden"),
    ],
    ids=["kl", "kl_instance", "crossentropy", "mse", "mae", "hidden"],
)
def test_sample_of_weight_zero_has_no_influence(data, loss):
    x, y = data
    weight = np.ones(32, "float32")
    weight[16:] = 0.0
    spoiled = np.where(weight[:, None] > 0, x, 50.0)
    results = [
        weights_after_step(
            Distiller(dense_model(6, 1), dense_model(6, 2), loss),
            inputs,
            y,
            sample_weight=weight,
        )
        for inputs in (x, spoiled)
    ]
    assert_close(*results, tolerance=1e-6)
    unweighted = Distiller(dense_model(6, 1), dense_model(6, 2), loss)
    assert_far(results[0], weights_after_step(unweighted, x, y))


def assert_far(ours, theirs):
    assert max(np.abs(a - b).max() for a, b in zip(ours, theirs)) > 1e-3


def test_weighted_loss_is_the_weighted_sum_over_the_batch_size(data):
    x, y = data
    teacher, student = dense_model(6, 1), dense_model(6, 2)
    weight = np.linspace(0.0, 2.0, 32).astype("float32")
    t, s = teacher.predict(x, verbose=0), student.predict(x, verbose=0)
    distiller = Distiller(teacher, student, Logits(3.0))
    distiller.compile("sgd", compiled_loss(), run_eagerly=True)
    logs = distiller.train_on_batch(x, y, sample_weight=weight, return_dict=True)
    expected = (weight * divergence(t, s, 3.0)).sum() / 32
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-5)
    expected = (weight * cross_entropy(y, s)).sum() / 32
    assert logs["student_loss"] == pytest.approx(expected, rel=1e-5)


def test_class_weight_is_the_sample_weight_of_the_class(data):
    x, y = data
    class_weight = {0: 0.0, 1: 1.0, 2: 3.0}
    sample_weight = np.asarray([class_weight[label] for label in y], "float32")
    results = [
        weights_after_step(
            Distiller(dense_model(6, 1), dense_model(6, 2), Logits()), x, y, **kwargs
        )
        for kwargs in ({"class_weight": class_weight}, {"sample_weight": sample_weight})
    ]
    assert_close(*results)


@keras.saving.register_keras_serializable("tests")
class ScalarLoss(keras.distillation.DistillationLoss):
    """As users write them: a plain mean that knows nothing of weights."""

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return ops.mean(ops.square(teacher_outputs - student_outputs))

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class PerSampleLoss(ScalarLoss):
    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return ops.mean(ops.square(teacher_outputs - student_outputs), axis=-1)


class WeightTakingLoss(PerSampleLoss):
    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None):
        values = super().compute_loss(teacher_outputs, student_outputs)
        if sample_weight is not None:
            values = values * sample_weight
        return ops.mean(values)


@pytest.mark.parametrize("loss", [ScalarLoss(), PerSampleLoss(), WeightTakingLoss()])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_ones_own_are_weighted(teacher, student, data, loss, weighted):
    x, y = data
    weight = np.linspace(0, 2, 32).astype("float32") if weighted else None
    t, s = teacher.predict(x, verbose=0), student.predict(x, verbose=0)
    values = ((t - s) ** 2).mean(-1)
    distiller = Distiller(teacher, student, loss)
    distiller.compile("sgd", compiled_loss(), run_eagerly=True)
    logs = distiller.train_on_batch(x, y, sample_weight=weight, return_dict=True)
    expected = (values * weight if weighted else values).mean()
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-5)


def spatial_model(seed):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 3, padding="same", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def test_weights_do_not_broadcast_along_the_wrong_axis():
    """A batch of 4 and a width of 4: Keras would multiply weights with columns."""
    teacher, student = spatial_model(1), spatial_model(2)
    x = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype("float32")
    weight = np.asarray([1.0, 0.0, 0.0, 0.0], "float32")
    distiller = Distiller(teacher, student, Features("mse", "conv", "conv"))
    distiller.compile("sgd", compiled_loss(), run_eagerly=True)
    t, s = (m.get_layer("conv")(x, training=False).numpy() for m in (teacher, student))
    expected = ((t - s) ** 2).mean((1, 2, 3))[0] / 4
    logs = distiller.train_on_batch(
        x, np.zeros(4), sample_weight=weight, return_dict=True
    )
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-5)


class Counting(keras.layers.Layer):
    """Counts in a variable how often it runs in the compiled graph."""

    def build(self, input_shape):
        self.count = self.add_weight(
            shape=(), initializer="zeros", trainable=False, dtype="int32", name="count"
        )

    def call(self, inputs, training=False):
        self.count.assign(self.count + 1)
        return inputs


def counting_model(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,)),
            Counting(name="counting"),
            keras.layers.Dense(6, name="hidden"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )


def test_each_model_runs_once_per_step(data):
    x, y = data
    teacher, student = counting_model(1), counting_model(2)
    losses = [Features("mse", "hidden", "hidden"), Logits(), Features("mae")]
    distiller = Distiller(teacher, student, losses)
    distiller.compile("sgd", compiled_loss())
    before = [int(m.get_layer("counting").count) for m in (teacher, student)]
    distiller.fit(x, y, batch_size=8, epochs=2, verbose=0)
    after = [int(m.get_layer("counting").count) for m in (teacher, student)]
    assert np.subtract(after, before).tolist() == [8, 8]


def test_teacher_is_left_as_found(data):
    x, y = data
    teacher, student = counting_model(1), counting_model(2)
    teacher.layers[1].trainable = False
    teacher.add(keras.layers.Dropout(0.5))
    before = teacher.get_weights()
    flags = [layer.trainable for layer in teacher.layers]
    attributes = [set(vars(layer)) for layer in teacher.layers]
    distiller = Distiller(teacher, student, Features("mse", "hidden", "hidden"))
    distiller.compile("sgd", compiled_loss())
    distiller.fit(x, y, verbose=0)
    distiller.evaluate(x, y, verbose=0)
    assert [layer.trainable for layer in teacher.layers] == flags
    assert [set(vars(layer)) for layer in teacher.layers] == attributes
    after = teacher.get_weights()
    after[0] = before[0]  # the counter, which counts by itself
    assert_close(after, before, tolerance=0)
    assert len(distiller.trainable_variables) == len(student.trainable_variables)
    assert not {id(v) for v in distiller.variables} & {id(v) for v in teacher.variables}


def test_evaluate_and_predict_are_the_students(data):
    x, y = data
    student = counting_model(2)
    distiller = Distiller(
        counting_model(1), student, Features("mse", "hidden", "hidden")
    )
    distiller.compile("sgd", compiled_loss(), metrics=["accuracy"])
    distiller.fit(x, y, validation_data=(x, y), verbose=0)
    assert "val_distillation_loss" not in distiller.history.history
    statistics = student.layers[2].get_weights()
    ours = distiller.evaluate(x, y, verbose=0)
    assert_close(student.layers[2].get_weights(), statistics, tolerance=0)
    student.compile("sgd", compiled_loss(), metrics=["accuracy"])
    assert ours == pytest.approx(student.evaluate(x, y, verbose=0), rel=1e-6)
    expected = student.predict(x, verbose=0)
    assert_close([distiller.predict(x, verbose=0)], [expected], tolerance=0)
    assert_close([distiller(x)], [student(x)], tolerance=0)


def test_teacher_alone_needs_no_labels(teacher, student, data):
    distiller = Distiller(teacher, student, Logits(), student_loss_weight=0)
    distiller.compile(keras.optimizers.Adam(0.05))
    history = distiller.fit(data[0], epochs=20, verbose=0).history
    assert history["loss"] == history["distillation_loss"]
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert distiller.evaluate(data[0], verbose=0) < history["loss"][-1]


def test_compute_loss_works_by_itself(teacher, student, data):
    x, y = data
    distiller = Distiller(teacher, student, Features("mse", "logits", "logits"))
    distiller.compile("sgd", compiled_loss())
    t, s = teacher.predict(x, verbose=0), student.predict(x, verbose=0)
    value = distiller.compute_loss(x, y, student(x, training=True))
    expected = 0.5 * cross_entropy(y, s).mean() + 0.5 * ((t - s) ** 2).mean()
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_finite_and_float32(data, policy):
    x, y = data
    keras.config.set_dtype_policy(policy)
    teacher, student = dense_model(6, 1), dense_model(6, 2)
    for weight in student.get_layer("logits").weights:
        weight.assign(weight + 300.0)  # logits beyond what float16 can square
    losses = [Logits(3.0), Features("mse"), Features("mse", "hidden", "hidden")]
    distiller = Distiller(teacher, student, losses)
    distiller.compile("adam", compiled_loss())
    scaled = isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    logs = distiller.train_on_batch(x, y, return_dict=True)
    t, s = (
        m.predict(x, verbose=0).astype("float32") for m in (teacher, distiller.student)
    )
    assert all(np.isfinite(float(v)) for v in logs.values())
    assert logs["distillation_loss"] > 65504  # the largest float16
    y_pred = distiller.student(x, training=True)
    assert distiller.compute_loss(x, y, y_pred).dtype == "float32"
    assert t.shape == s.shape == (32, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 4},
        {"jit_compile": True},
        {"run_eagerly": True},
    ],
    ids=str,
)
def test_ways_to_run_a_step_agree(data, options):
    x, y = data
    results = []
    for kwargs in ({}, options):
        losses = [Logits(2.0), Features("mse", "hidden", "hidden")]
        if not options.get("jit_compile"):  # half a minute of XLA's time
            losses.append(ScalarLoss())
        distiller = Distiller(dense_model(6, 1), dense_model(6, 2), losses)
        distiller.compile("adam", compiled_loss(), **kwargs)
        history = distiller.fit(
            x, y, 4, 1, shuffle=False, verbose=0, sample_weight=np.linspace(0, 1, 32)
        ).history
        results.append([*distiller.student.get_weights(), history["loss"]])
    assert_close(*results, tolerance=1e-4)


class Bound(keras.constraints.Constraint):
    def __call__(self, w):
        return ops.clip(w, -0.01, 0.01)


class Constrain(keras.callbacks.Callback):
    """What PruneWeights does to the model it finds."""

    def on_train_begin(self, logs=None):
        for variable in self.model.trainable_variables:
            variable.constraint = Bound()
        self.model.make_train_function(force=True)


def test_constraints_set_by_a_callback_hold(teacher, student, data):
    distiller = Distiller(teacher, student, Logits())
    distiller.compile("adam", compiled_loss())
    distiller.fit(*data, verbose=0)
    assert max(np.abs(w).max() for w in student.get_weights()) > 0.1
    distiller.fit(*data, verbose=0, callbacks=[Constrain()])
    assert max(np.abs(w).max() for w in student.get_weights()) <= 0.0101


def test_a_saved_distiller_goes_on_training(teacher, student, data, tmp_path):
    x, y = data
    losses = [Logits(2.0), Features("mse", "logits", "logits"), ScalarLoss()]
    distiller = Distiller(teacher, student, losses, [1.0, 0.5, 2.0], 0.25)
    distiller.compile("adam", compiled_loss(), metrics=["accuracy"])
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0}
    distiller.fit(x, y, **kwargs)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert_close(loaded.teacher.get_weights(), teacher.get_weights(), tolerance=0)
    expected = distiller.predict(x, verbose=0)
    assert_close([loaded.predict(x, verbose=0)], [expected], tolerance=0)
    assert int(loaded.optimizer.iterations) == 4
    ours = loaded.fit(x, y, **kwargs).history
    theirs = distiller.fit(x, y, **kwargs).history
    assert set(ours) == {"accuracy", "loss", "student_loss", "distillation_loss"}
    assert {k: v[0] for k, v in ours.items()} == pytest.approx(
        {k: v[0] for k, v in theirs.items()}, rel=1e-6
    )
    assert_close(loaded.student.get_weights(), student.get_weights(), tolerance=1e-6)


def test_weights_file_holds_student_teacher_and_optimizer(data, tmp_path):
    x, y = data
    models = []
    for seed in (1, 5):
        distiller = Distiller(dense_model(6, seed), dense_model(6, seed + 1), Logits())
        distiller.compile("adam", compiled_loss())
        distiller.fit(x, y, verbose=0)
        models.append(distiller)
    models[0].save_weights(tmp_path / "d.weights.h5")
    models[1].load_weights(tmp_path / "d.weights.h5")
    for part in ("student", "teacher"):
        assert_close(*(getattr(m, part).get_weights() for m in models), tolerance=0)


def two_headed(seed, as_dict=False, names=("shape", "colour")):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="relu", name="hidden")(inputs)
    outputs = {
        name: keras.layers.Dense(n, name=name)(hidden) for name, n in zip(names, (3, 2))
    }
    return keras.Model(inputs, outputs if as_dict else list(outputs.values()))


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_outputs(data, as_dict):
    x, y = data
    labels = {"shape": y, "colour": y % 2}
    weight = np.linspace(0, 1, 32).astype("float32")
    student = two_headed(2, as_dict)
    losses = {"shape": compiled_loss(), "colour": compiled_loss()}
    pattern = ["kl_divergence", None]
    loss = dict(zip(labels, pattern)) if as_dict else pattern
    distiller = Distiller(two_headed(1, as_dict), student, [Logits(2.0, loss)])
    distiller.compile(
        "sgd",
        losses,
        loss_weights={"shape": 1.0, "colour": 0.5},
        metrics={"shape": ["accuracy"]},
    )
    t, s = (
        keras.tree.flatten(m.predict(x, verbose=0))
        for m in (distiller.teacher, student)
    )
    order = 1 if as_dict else 0  # keras.tree flattens dicts in the order of keys
    expected = (divergence(t[order], s[order], 2.0) * weight).mean()
    targets = labels if as_dict else list(labels.values())
    weights = {"shape": weight, "colour": weight} if as_dict else [weight, weight]
    logs = distiller.train_on_batch(x, targets, sample_weight=weights, return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-5)
    student.compile("sgd", losses, loss_weights={"shape": 1.0, "colour": 0.5})
    ours = distiller.evaluate(x, targets, return_dict=True, verbose=0)
    theirs = student.evaluate(x, targets, return_dict=True, verbose=0)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert any("accuracy" in key for key in ours)


class Subclassed(keras.Model):
    def __init__(self, width=6):
        super().__init__()
        self.hidden = keras.layers.Dense(width, name="hidden")
        self.head = dense_head()

    def call(self, inputs):
        return self.head(self.hidden(inputs))


def dense_head():
    return keras.Sequential(
        [keras.layers.Dense(5, name="inner"), keras.layers.Dense(3)], name="head"
    )


def test_layers_of_subclassed_and_nested_models(data):
    x, y = data
    keras.utils.set_random_seed(0)
    teacher, student = Subclassed(), Subclassed()
    teacher(x)
    losses = [
        Features("mse", "head/inner", "inner"),
        Features("mse", "hidden", "hidden"),
    ]
    distiller = Distiller(teacher, student, losses)
    distiller.compile(keras.optimizers.Adam(0.05), compiled_loss())
    history = distiller.fit(x, y, epochs=20, verbose=0).history
    assert history["distillation_loss"][-1] < 0.2 * history["distillation_loss"][0]


def test_teacher_with_another_input_size(data):
    keras.utils.set_random_seed(0)
    teacher = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    student = spatial_model(1)
    x = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype("float32")
    resize = keras.layers.Resizing(8, 8, interpolation="nearest")
    distiller = Distiller(teacher, student, Logits(), teacher_preprocessing=resize)
    distiller.compile("sgd", compiled_loss(), run_eagerly=True)
    t = teacher.predict(x.repeat(2, 1).repeat(2, 2), verbose=0)
    expected = divergence(t, student.predict(x, verbose=0), 3.0).mean()
    logs = distiller.train_on_batch(x, np.zeros(4), return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-5)
    again = Distiller.from_config(distiller.get_config())
    assert again.teacher_preprocessing.height == 8


def test_padded_steps_do_not_count():
    def tagger(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((5,), dtype="int32"),
                keras.layers.Embedding(7, 4, mask_zero=True),
                keras.layers.Dense(3),
            ]
        )

    teacher, student = tagger(1), tagger(2)
    x = np.asarray([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0]])
    t, s = teacher.predict(x, verbose=0), student.predict(x, verbose=0)
    expected = divergence(t, s, 3.0)[x > 0].mean()
    assert expected != pytest.approx(divergence(t, s, 3.0).mean(), rel=0.05)
    distiller = Distiller(teacher, student, Logits(3.0))
    distiller.compile("sgd", compiled_loss(), run_eagerly=True)
    logs = distiller.train_on_batch(x, np.zeros((2, 5)), return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-3)
