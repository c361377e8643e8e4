"""Fits that do not go as planned: callbacks that choose models, and later fits."""

import warnings

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress import (
    ClusterWeights,
    CompressionWarning,
    InvalidArgumentError,
    NOfM,
    OnceFinal,
    PolynomialSparsity,
    PruneChannels,
    PruneWeights,
    SparseTraining,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 16)).astype("float32")
Y = (X @ RNG.normal(size=(16, 4))).astype("float32")
EPOCHS, BEST = 6, 0  # the schedule ends in the fifth of them


class Says(keras.callbacks.Callback):
    """Reports a metric that is best in one epoch, and keeps all weights."""

    def __init__(self, best=BEST):
        super().__init__()
        self.best, self.seen = best, []

    def on_epoch_end(self, epoch, logs=None):
        logs["fake"] = float(abs(epoch - self.best))
        self.seen.append([v.numpy() for v in self.model.trainable_variables])


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def model_():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, activation="relu", name="wide"),
            keras.layers.Dense(4, name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def early(**options):
    return keras.callbacks.EarlyStopping(
        "fake", mode="min", patience=9, restore_best_weights=True, **options
    )


def grows(final=0.8):
    return PolynomialSparsity(0.0, final, frequency=1)


TECHNIQUES = {
    "weights": lambda: PruneWeights(grows()),
    "filters": lambda: PruneWeights(grows(0.5), pattern="channel", filters="wide"),
    "channels": lambda: PruneChannels(grows(0.5)),
    "clusters": lambda: ClusterWeights(4, begin_step=0.7),
    "sparse": lambda: SparseTraining(0.8),
}


def is_one_of(model, seen):
    present = [v.numpy() for v in model.trainable_variables]
    return any(all(map(np.array_equal, present, one)) for one in seen)


def fit(model, *callbacks, epochs=EPOCHS, **options):
    return model.fit(X, Y, epochs=epochs, verbose=0, callbacks=[*callbacks], **options)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_restored_weights_are_those_of_an_epoch(name, before):
    says, technique, model = Says(), TECHNIQUES[name](), model_()
    pair = [early(), technique] if before else [technique, early()]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(model, says, *pair)
    assert is_one_of(model, says.seen)
    told = [str(w.message) for w in told if w.category is CompressionWarning]
    if name == "sparse":  # which has its zeros in each epoch
        assert not told
        assert np.mean(model.layers[0].kernel.numpy() == 0) > 0.5
    else:
        (text,) = told
        assert "EarlyStopping gives back" in text
        assert "epoch 1" in text
        assert "OnceFinal(EarlyStopping(...)" in text


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_the_best_of_the_final_ones(name, before, tmp_path):
    says, technique, model = Says(best=4), TECHNIQUES[name](), model_()
    path = tmp_path / "best.keras"
    check = keras.callbacks.ModelCheckpoint(
        path, monitor="fake", mode="min", save_best_only=True
    )
    chosen = [OnceFinal(early(), technique), OnceFinal(check, technique)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompressionWarning)
        fit(model, says, *([*chosen, technique] if before else [technique, *chosen]))
    for one, final in zip(model.get_weights(), says.seen[4]):
        np.testing.assert_array_equal(one, final)
    for one, final in zip(keras.saving.load_model(path).get_weights(), says.seen[4]):
        np.testing.assert_array_equal(one, final)


def test_once_final_begins_when_all_are_done():
    says = Says(best=0)
    prune, cluster = PruneWeights(grows()), ClusterWeights(4, begin_step=0.95)
    model, seen = model_(), []
    listen = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: seen.append(e))
    fit(model, says, prune, cluster, OnceFinal(listen, prune, cluster))
    assert seen == [EPOCHS - 1]


def test_once_final_holds_back_batches_too():
    prune, model, seen = PruneWeights(grows()), model_(), []

    class Batches(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(int(self.model.optimizer.iterations))

    fit(model, prune, OnceFinal(Batches(), prune))
    assert seen == list(range(18, 25))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (None,),
        ("early", None),
        (keras.callbacks.TerminateOnNaN(),),
        (keras.callbacks.TerminateOnNaN(), keras.callbacks.TerminateOnNaN()),
        (PruneWeights, PruneWeights(0.5)),
    ],
)
def test_once_final_refuses(arguments):
    with pytest.raises((InvalidArgumentError, TypeError)):
        OnceFinal(*arguments)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", ["weights", "channels", "clusters"])
def test_the_best_file_of_before_the_end_is_told(name, before, tmp_path):
    technique, path = TECHNIQUES[name](), tmp_path / "best.keras"
    check = keras.callbacks.ModelCheckpoint(
        path, monitor="fake", mode="min", save_best_only=True
    )
    pair = [check, technique] if before else [technique, check]
    with pytest.warns(CompressionWarning, match=r"kept the model of an epoch before"):
        fit(model_(), Says(), *pair)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompressionWarning)
        again = keras.callbacks.ModelCheckpoint(
            tmp_path / "last-{epoch}.keras",
            monitor="fake",
            mode="min",
            save_best_only=False,
        )
        technique = TECHNIQUES[name]()
        fit(model_(), Says(), technique, again)


def test_the_last_epoch_may_be_the_best(tmp_path):
    check = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", monitor="fake", mode="min", save_best_only=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompressionWarning)
        fit(model_(), Says(best=5), PruneWeights(grows()), check, early())


def test_the_printed_line_is_true(capsys):
    model = model_()
    with pytest.warns(CompressionWarning, match=r"are zero, and 80.0% are asked for"):
        fit(model, Says(), PruneWeights(grows(), verbose=1), early())
    zeros = sum((layer.kernel.numpy() == 0).sum() for layer in model.layers)
    assert f"{zeros / 640:.1%} of 640 weights are zero" in capsys.readouterr().out


def zeros_of(model):
    return [float(np.mean(layer.kernel.numpy() == 0)) for layer in model.layers]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("size", [8, 64])
def test_a_resumed_fit_keeps_its_zeros(tmp_path, scope, size):
    def prune():
        return PruneWeights(PolynomialSparsity(0.0, 0.8, frequency=2), scope=scope)

    model, seen = model_(), {}

    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen[epoch] = np.mean(zeros_of(self.model))
            if epoch == 2 and 3 not in seen:
                self.model.save(tmp_path / "m.keras")
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, prune(), Stops(), batch_size=16)
    model = keras.saving.load_model(tmp_path / "m.keras")
    seen[3] = 0
    fit(model, prune(), Stops(), batch_size=size, initial_epoch=3)
    assert seen[3] >= seen[2] - 0.01
    zeros = sum((layer.kernel.numpy() == 0).sum() for layer in model.layers)
    assert zeros / 640 == pytest.approx(0.8, abs=0.01)


def test_a_kernel_of_zeros_only_is_not_held():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(16, kernel_initializer="identity"),
            keras.layers.Dense(4, kernel_initializer="zeros"),
        ]
    )
    model.compile("adam", "mse")
    fit(model, PruneWeights(grows(0.5), scope="layer"), epochs=4)
    assert zeros_of(model) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("technique", [PruneWeights, PruneChannels])
def test_a_schedule_that_lies_behind(technique):
    model = model_()
    fit(model, epochs=10)  # 40 steps
    before = [v.numpy() for v in model.variables]
    schedule = PolynomialSparsity(0.0, 0.8, begin_step=0, end_step=20, frequency=2)
    with pytest.raises(InvalidArgumentError, match=r"lies behind.*at step 20.*40"):
        fit(model, technique(schedule))
    assert all(map(np.array_equal, before, [v.numpy() for v in model.variables]))
    # Zeros that are there already are held by it, as before.
    pruned = model_()
    fit(pruned, technique(schedule))
    fit(pruned, technique(schedule))
    assert min(zeros_of(pruned)[0], 0.7) == 0.7


def test_a_later_fit_without_the_technique_is_told_once():
    model = model_()
    fit(model, PruneWeights(grows()), ClusterWeights(4, begin_step=0.9))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(model, epochs=1)
        fit(model, epochs=1)
    told = [str(w.message) for w in told]
    assert len(told) == 2
    assert "no PruneWeights, and may undo the zeros" in told[0]
    assert "PruneWeights('keep')" in told[0]
    assert "ClusterWeights('keep')" in told[1]
    assert "make_train_function" not in vars(model)


def test_no_word_where_nothing_can_be_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompressionWarning)
        model = model_()
        fit(model, PruneWeights(grows()))
        fit(model, PruneWeights("keep"))
        model.trainable = False
        model.compile("adam", "mse")
        warnings.filterwarnings("ignore", "The model does not have any trainable")
        fit(model, epochs=1)


def test_keep_keeps_zeros_and_values():
    model = model_()
    fit(model, PruneWeights(grows()), ClusterWeights(5, begin_step=0.9))
    places = [layer.kernel.numpy() == 0 for layer in model.layers]
    values = [len(np.unique(layer.kernel)) for layer in model.layers]
    model.compile(keras.optimizers.Adam(0.01), "mse")
    before = [v.numpy() for v in model.trainable_variables]
    fit(model, PruneWeights("keep", verbose=1), ClusterWeights("keep"))
    for layer, place, count in zip(model.layers, places, values):
        np.testing.assert_array_equal(layer.kernel.numpy() == 0, place)
        assert len(np.unique(layer.kernel)) == count
    assert not is_one_of(model, [before])


def test_keep_needs_something_to_keep():
    with pytest.raises(InvalidArgumentError, match="no zeros to keep"):
        fit(model_(), PruneWeights("keep"))
    with pytest.raises(InvalidArgumentError, match="no shared values to keep"):
        fit(model_(), ClusterWeights("keep"))


def test_keep_of_a_pattern():
    model = model_()
    fit(model, PruneWeights(grows(0.5), pattern=NOfM(2, 4)))
    places = [layer.kernel.numpy() == 0 for layer in model.layers]
    fit(model, PruneWeights("keep", pattern=NOfM(2, 4)))
    for layer, place in zip(model.layers, places):
        np.testing.assert_array_equal(layer.kernel.numpy() == 0, place)


@pytest.mark.parametrize("name", ["weights", "filters", "sparse"])
def test_nan_stays_to_be_seen(name):
    x = X.copy()
    x[20] = np.nan
    model = model_()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(
            x,
            Y,
            epochs=3,
            batch_size=16,
            shuffle=False,
            verbose=0,
            callbacks=[TECHNIQUES[name]()],
        )
    # The activation may hide it in what is predicted.
    assert np.isnan(model.layers[0].kernel.numpy()).any()
    if name != "sparse":
        assert any("wide" in str(w.message) and "NaN" in str(w.message) for w in told)


@keras.saving.register_keras_serializable("tests.flow")
class Own(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize(
    "make",
    [
        tfcompress.quantize_aware,
        lambda model: tfcompress.shrink(model, 0.5),
        lambda model: tfcompress.factorize(model, rank=2),
    ],
    ids=["quantized", "smaller", "factorized"],
)
def test_a_train_step_of_its_own_is_told(make, request):
    inputs = keras.Input((16,))
    outputs = keras.layers.Dense(4)(keras.layers.Dense(32, "relu")(inputs))
    name = request.node.callspec.id
    with pytest.warns(CompressionWarning, match=rf"Own.* train_step .*{name} copy"):
        make(Own(inputs, outputs))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompressionWarning)
        make(keras.Model(inputs, outputs))


def callbacks_of(technique, model, **params):
    return keras.callbacks.CallbackList([technique], model=model, **params)


@pytest.mark.parametrize("name", ["weights", "channels", "clusters"])
def test_a_loop_that_calls_no_epochs_is_told(name):
    model = model_()
    callbacks = callbacks_of(TECHNIQUES[name](), model, epochs=3, steps=4)
    callbacks.on_train_begin()
    for _ in range(12):
        model.train_on_batch(X[:32], Y[:32])
    with pytest.warns(CompressionWarning, match="did nothing.*on_epoch_begin"):
        callbacks.on_train_end()


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_loop_that_tells_no_steps(name):
    callbacks = callbacks_of(TECHNIQUES[name](), model_())
    callbacks.on_train_begin()
    with pytest.raises(InvalidArgumentError, match=r"CallbackList\(callbacks, epochs"):
        callbacks.on_epoch_begin(0)


@pytest.mark.parametrize("early", [True, False])
def test_a_step_that_was_traced_before(early):
    import tensorflow as tf

    model = model_()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    if early:
        step(X[:32], Y[:32])
    callbacks = callbacks_of(
        PruneWeights(grows(), scope="layer"), model, epochs=3, steps=4
    )
    callbacks.on_train_begin()
    for epoch in range(3):
        callbacks.on_epoch_begin(epoch)
        for _ in range(4):
            step(X[:32], Y[:32])
        callbacks.on_epoch_end(epoch)
    if early:
        with pytest.warns(CompressionWarning, match=r"0\.0%.*80\.0%.*tf\.function"):
            callbacks.on_train_end()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CompressionWarning)
            callbacks.on_train_end()
        assert min(zeros_of(model)) > 0.75
