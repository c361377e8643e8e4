"""Tasks: data of every kind, and metrics as Keras itself computes them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.compression.conftest import make_model
from tfcompress.compression.data import Data
from tfcompress.compression.task import Task, Training
from tfcompress.core.errors import CompressionWarning, InvalidArgumentError


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    @property
    def num_batches(self):
        return 5

    def __getitem__(self, index):
        part = slice(100 * index, 100 * (index + 1))
        return self.x[part], self.y[part]


def as_dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(100)


@pytest.mark.parametrize("make", [lambda x, y: (x, y), as_dataset, Batches])
def test_all_kinds_of_data_are_read_alike(data, make):
    x, y = data[0]
    read = Data("train", make(x, y), batch_size=100)
    for _ in range(2):
        parts = list(read.batches())
        assert [len(part[0]) for part in parts] == [100] * 5
        np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), y)
    head = read.head(130)
    np.testing.assert_array_equal(head[0], x[:130])
    rows = {row.tobytes(): number for number, row in enumerate(x)}
    for count in (3, 5, 130, 500, 900):
        inputs, labels = read.sample(count)
        numbers = [rows[row.tobytes()] for row in inputs]
        assert len(set(numbers)) == len(numbers) == min(count, 500)
        np.testing.assert_array_equal(labels, y[numbers])
        assert max(numbers) >= (400 if count > 4 else 200)  # from all over
    assert read.steps == 5


@pytest.mark.parametrize("make", [lambda x, y: (x, y), as_dataset, Batches])
def test_all_kinds_of_data_can_be_trained_on(trained, data, make, tmp_path):
    task = Task(trained, make(*data[0]), data[1], batch_size=100)
    model = task.copy()
    teaching = {"distillation_losses": "soft_labels"}
    history = task.fit(model, Training(2, 1e-3, [], teaching, 0, tmp_path))
    assert len(history["loss"]) == 2
    assert task.evaluate(lambda x: model(x))["accuracy"] > 0.7


def test_arrays_come_in_a_new_order_each_epoch_that_the_seed_decides(data):
    read = Data("train", data[0], batch_size=500)

    def orders(seed):
        batches = iter(read.for_fit(seed)[0])
        return [next(batches)[0].numpy() for _ in range(2)]

    first, second = orders(1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first, 0), np.sort(second, 0))
    np.testing.assert_array_equal(orders(1)[1], second)
    assert not np.array_equal(orders(2)[0], first)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda x, y: iter([(x, y)]), "can be read only once"),
        (lambda x, y: (b for b in [(x, y)]), "use tf.data.Dataset.from_generator"),
        (lambda x, y: [x, y], "has no labels, or hides them"),
        (lambda x, y: x, "Received: a ndarray"),
        (lambda x, y: (x,), "1 entries"),
        (lambda x, y: (x, y[:-1]), "lengths 499, 500"),
        (lambda x, y: (x[:0], y[:0]), "lengths 0"),
        (lambda x, y: as_dataset(x, y).repeat(), "never ends"),
        (lambda x, y: as_dataset(x, y).take(0), "is empty"),
        (lambda x, y: tf.data.Dataset.from_tensor_slices(x).batch(9), "no labels"),
        (lambda x, y: (x * np.nan, y), "inputs of `train` are not finite"),
        (lambda x, y: None, "cannot be read"),
        (lambda x, y: 7, "Received: int"),
    ],
)
def test_data_that_cannot_be_used_are_refused(data, make, text):
    with pytest.raises(InvalidArgumentError) as caught:
        Data("train", make(*data[0]), 64)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "spoil", [lambda y: y + 7, lambda y: y - 1.0, lambda y: y * np.nan]
)
def test_labels_that_are_no_classes_are_refused(trained, data, spoil):
    (x, y), validation = data[0], data[1]
    with pytest.raises(InvalidArgumentError, match="labels of `train` are not classes"):
        Task(trained, (x, spoil(y.astype("float32"))), validation)
    ignoring = keras.models.clone_model(trained)
    ignoring.set_weights(trained.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    ignoring.compile("adam", loss, metrics=["accuracy"])
    Task(ignoring, (x, np.where(y == y[0], -1, y)), validation)


def test_metrics_are_those_of_keras(trained, data, task):
    expected = trained.evaluate(*data[1], verbose=0, return_dict=True)
    assert task.scores == pytest.approx(expected, rel=1e-5)
    assert (task.metric, task.higher_is_better) == ("accuracy", True)
    assert task.learning_rate == pytest.approx(5e-3)
    assert task.teaches == "logits"


def test_several_outputs_losses_and_weights_are_scored_as_by_keras(rng):
    inputs = keras.Input((4,), name="x")
    outputs = {
        "b": keras.layers.Dense(2, name="b")(inputs),
        "a": keras.layers.Dense(1, name="a")(inputs),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        "sgd",
        {"a": "mse", "b": "mae"},
        loss_weights={"a": 0.2, "b": 3.0},
        metrics={"b": ["mse"]},
    )
    x = rng.normal(size=(50, 4)).astype("float32")
    y = {"a": rng.normal(size=(50, 1)), "b": rng.normal(size=(50, 2))}
    task = Task(model, (x, y), (x, y), "b_mse")
    # Keras' losses of single outputs are means over batches: one of them is exact.
    expected = model.evaluate(x, y, batch_size=50, verbose=0, return_dict=True)
    assert task.scores == pytest.approx(expected, rel=1e-5)
    assert task.evaluate(lambda x: model(x)) == pytest.approx(expected, rel=1e-5)
    assert (task.higher_is_better, task.teaches) == (False, "nothing")


def test_a_schedule_gives_its_first_rate(data):
    model = make_model(compiled=False)
    rate = keras.optimizers.schedules.ExponentialDecay(0.25, 10, 0.5)
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    assert Task(model, data[0], data[1]).learning_rate == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("loss", "last", "teaches"),
    [
        ("sparse_categorical_crossentropy", "softmax", "probabilities"),
        ("binary_crossentropy", "sigmoid", "binary"),
        ("mse", "linear", "regression"),
        ("poisson", "exponential", "nothing"),
    ],
)
def test_what_a_student_could_learn_is_seen_from_loss_and_outputs(loss, last, teaches):
    width = 3 if last == "softmax" else 1
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(width, last)])
    model.compile("sgd", loss)
    x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "int64")
    assert Task(model, (x, y), (x, y)).teaches == teaches


def test_models_without_what_is_needed_are_refused(data):
    with pytest.raises(InvalidArgumentError, match="not compiled"):
        Task(make_model(compiled=False), *data)
    with pytest.raises(InvalidArgumentError, match=r"keras\.Model"):
        Task("model.keras", *data)
    model = make_model()
    with pytest.raises(InvalidArgumentError, match="one of 'accuracy', 'loss'"):
        Task(model, *data, metric="auc")
    model.set_weights([np.full(w.shape, np.nan) for w in model.get_weights()])
    with pytest.raises(InvalidArgumentError, match="is not a number"):
        Task(model, *data, metric="loss")


def test_a_metric_whose_name_says_nothing_needs_a_direction(data):
    @keras.saving.register_keras_serializable("tests")
    def spread(y_true, y_pred):
        return keras.ops.std(y_pred)

    model = make_model(metrics=[spread])
    with pytest.raises(InvalidArgumentError, match="Is a higher 'spread' better"):
        Task(model, *data)
    assert not Task(model, *data, metric=("spread", "min")).higher_is_better
    with pytest.raises(InvalidArgumentError, match="direction 'down'"):
        Task(model, *data, metric=("spread", "down"))


def test_losses_that_keras_cannot_save_are_refused(data):
    def own(y_true, y_pred):
        return keras.ops.mean(y_pred)

    model = make_model(compiled=False)
    model.compile("sgd", own)
    with pytest.raises(InvalidArgumentError, match="register your own"):
        Task(model, *data)


class Own(keras.Model):
    def __init__(self, depends_on_values=False):
        super().__init__()
        self.depends_on_values = depends_on_values
        self.hidden = keras.layers.Dense(8, "relu", name="hidden")
        self.last = keras.layers.Dense(2, "softmax", name="last")

    def call(self, x):
        if self.depends_on_values and float(x[0, 0]) > 1e9:
            return x
        return self.last(self.hidden(x))


def test_subclassed_models_are_what_their_call_does(data, tmp_path):
    model = Own()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data[0], verbose=0)
    task = Task(model, *data)
    expected = model.evaluate(*data[1], verbose=0, return_dict=True)
    assert task.scores == pytest.approx(expected, rel=1e-4)
    before = model.get_weights()
    task.fit(task.copy(), Training(1, 0.1, [], None, 0, tmp_path))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_call_that_depends_on_values_is_refused(data):
    model = Own(depends_on_values=True)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(*data[0], verbose=0)
    with pytest.raises(InvalidArgumentError, match="does not run on symbolic tensors"):
        Task(model, *data)


@keras.saving.register_keras_serializable("tests.compression")
def own_loss(labels, outputs):
    return keras.ops.mean(keras.ops.square(outputs), axis=-1)


def test_a_loss_that_is_a_function_of_the_users(data):
    model = make_model()
    model.compile("sgd", own_loss, metrics=[own_loss])
    task = Task(model, *data, metric=("loss", "min"), batch_size=64)
    assert task.baseline == pytest.approx(task.scores["own_loss"], abs=1e-3)


def test_a_rate_that_trains_nothing_is_told(data):
    model = make_model()
    model.optimizer.learning_rate = 1e-9
    with pytest.warns(CompressionWarning, match=r"rate of the optimizer is 1\.0e-09"):
        Task(model, *data, batch_size=64)


@pytest.mark.parametrize("wrong", ["train", "validation"])
def test_labels_that_the_loss_cannot_take(wrong):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["binary_accuracy"])
    x = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    data = {name: (x, np.zeros((20, 3))) for name in ("train", "validation")}
    data[wrong] = (x, np.zeros((20, 7)))
    with pytest.raises(InvalidArgumentError, match=rf"{wrong} labels.*\(7,\)"):
        Task(model, data["train"], data["validation"])
