"""Projections compose, and the user's own constraint survives and comes back."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.core.callback import FitCallback, ProjectionChain, attach, detach
from tfcompress.core.errors import InvalidArgumentError


def add_one(value):
    return value + 1.0


def double(value):
    return value * 2.0


def variable(constraint=None):
    made = keras.Variable([1.0, -2.0])
    made.constraint = constraint
    return made


class Times(keras.constraints.Constraint):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, value):
        return value * self.factor

    def get_config(self):
        return {"factor": self.factor}


def test_projections_apply_in_the_order_they_were_attached():
    v = variable()
    attach(v, add_one)
    attach(v, double)
    assert ops.convert_to_numpy(v.constraint(v)).tolist() == [4.0, -2.0]


def test_the_users_constraint_comes_first():
    v = variable(keras.constraints.NonNeg())
    chain = attach(v, add_one)
    assert ops.convert_to_numpy(v.constraint(v)).tolist() == [2.0, 1.0]
    assert ops.convert_to_numpy(chain.constrained(v)).tolist() == [1.0, 0.0]


def test_two_projections_share_one_chain():
    v = variable()
    assert attach(v, add_one) is attach(v, double)


@pytest.mark.parametrize("own", [None, keras.constraints.NonNeg()])
def test_the_users_constraint_is_back_when_the_last_projection_leaves(own):
    v = variable(own)
    attach(v, add_one)
    attach(v, double)
    detach(v, add_one)
    assert isinstance(v.constraint, ProjectionChain)
    assert v.constraint.projections == [double]
    detach(v, double)
    assert v.constraint is own


def test_detaching_what_was_never_attached_changes_nothing():
    own = keras.constraints.NonNeg()
    v = variable(own)
    detach(v, add_one)
    assert v.constraint is own
    attach(v, add_one)
    detach(v, double)
    assert v.constraint.projections == [add_one]


def test_config_remembers_the_users_constraint():
    config = ProjectionChain(keras.constraints.MaxNorm(2.0)).get_config()
    assert config["original"]["class_name"] == "MaxNorm"
    assert config["original"]["config"]["max_value"] == 2.0
    assert ProjectionChain(None).get_config() == {}


def dense_model(constraint=None):
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(1, kernel_constraint=constraint)]
    )
    model.compile("sgd", "mse")
    return model


class Clamp(FitCallback):
    """Holds all kernels at one value while it runs."""

    def __init__(self, value=0.25):
        super().__init__()
        self.value = value
        self.spans = []

    def project(self, weights):
        return ops.full_like(weights, self.value)

    def start(self, epoch):
        self.spans.append((epoch, *self.fit_steps(epoch)))
        attach(self.model.layers[0].kernel, self.project)

    def stop(self):
        detach(self.model.layers[0].kernel, self.project)


X = np.ones((32, 2), "float32")
Y = np.ones((32, 1), "float32")
FAST = {"verbose": 0, "batch_size": 8}
STREAM = {"verbose": 0, "shuffle": False}


def kernel_of(model):
    return model.layers[0].kernel.numpy().ravel().tolist()


def test_the_projection_holds_during_fit_and_is_gone_after_it():
    model = dense_model()
    model.fit(X, Y, epochs=2, callbacks=[Clamp()], **FAST)
    assert kernel_of(model) == [0.25, 0.25]
    model.fit(X, Y, **FAST)
    assert kernel_of(model) != [0.25, 0.25]
    assert model.layers[0].kernel.constraint is None


def test_it_works_on_a_model_that_has_been_traced_before():
    model = dense_model()
    model.fit(X, Y, **FAST)
    model.fit(X, Y, callbacks=[Clamp()], **FAST)
    assert kernel_of(model) == [0.25, 0.25]


def test_fit_steps_count_the_optimizer():
    model = dense_model()
    clamp = Clamp()
    model.fit(X, Y, epochs=3, callbacks=[clamp], **FAST)
    model.fit(X, Y, epochs=2, callbacks=[clamp], **FAST)
    # 4 steps an epoch: steps 0-11, then 12-19.
    assert clamp.spans == [(0, 0, 11), (0, 12, 19)]


def test_fit_steps_of_a_resumed_run_are_those_of_the_whole_fit():
    model = dense_model()
    clamp = Clamp()
    model.fit(X, Y, epochs=2, **FAST)
    model.fit(X, Y, initial_epoch=2, epochs=5, callbacks=[clamp], **FAST)
    assert clamp.spans == [(2, 0, 19)]


def test_data_of_unknown_length_is_refused_with_a_way_out():
    def endless():
        while True:
            yield X[:8], Y[:8]

    model = dense_model()
    model.fit(endless(), steps_per_epoch=2, callbacks=[Clamp()], **STREAM)
    assert kernel_of(model) == [0.25, 0.25]

    def five():
        for _ in range(5):
            yield X[:8], Y[:8]

    with pytest.raises(InvalidArgumentError, match="pass steps_per_epoch to fit"):
        model.fit(five(), callbacks=[Clamp()], **STREAM)


def test_an_unbuilt_model_is_refused_before_training():
    model = keras.Sequential([layers.Dense(1)], name="raw")
    model.compile("sgd", "mse")
    callback = Clamp()
    callback.set_model(model)
    with pytest.raises(InvalidArgumentError, match="use Clamp in fit: model 'raw'"):
        callback.on_train_begin()


def test_a_model_saved_during_fit_loads_with_the_users_constraint(tmp_path):
    path = tmp_path / "model.keras"
    model = dense_model(keras.constraints.MaxNorm(3.0))
    save = keras.callbacks.ModelCheckpoint(path)
    model.fit(X, Y, callbacks=[Clamp(), save], **FAST)
    loaded = keras.saving.load_model(path)
    assert isinstance(loaded.layers[0].kernel_constraint, keras.constraints.MaxNorm)
    assert kernel_of(loaded) == [0.25, 0.25]


def test_two_callbacks_on_one_variable_compose():
    class Halve(Clamp):
        def project(self, weights):
            return weights * 0.5

    model = dense_model(Times(1.0))
    model.fit(X, Y, callbacks=[Clamp(0.8), Halve()], **FAST)
    np.testing.assert_allclose(kernel_of(model), [0.4, 0.4], rtol=1e-6)
    assert isinstance(model.layers[0].kernel.constraint, Times)
