"""PruneWeights in every way Keras can run a training step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.pruning.pruned import (
    STEPS,
    compiled,
    expected_sparsities,
    mlp,
    schedule,
    sparsities,
)
from tfcompress import CompressionWarning, PruneWeights


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "how",
    [
        {"steps_per_execution": 4},
        {"jit_compile": True},
        {"run_eagerly": True},
    ],
    ids=str,
)
def test_execution_mode(fit, how):
    model = fit(compiled(mlp(), **how))
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))


def test_steps_that_run_eagerly_trace_nothing(fit, monkeypatch):
    traced, function = [], tf.function

    def counted(*args, **kwargs):
        traced.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(tf, "function", counted)
    model = fit(compiled(mlp(), run_eagerly=True))
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))
    assert len(traced) == 0


@pytest.mark.sweep(1)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(fit, policy):
    keras.config.set_dtype_policy(policy)
    model = fit(compiled(mlp()))
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))
    assert model.layers[0].kernel.dtype == "float32"


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(use_ema=True),
        keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=3),
    ],
    ids=["ema", "ema overwriting"],
)
def test_optimizer(fit, optimizer):
    model = fit(compiled(mlp(), optimizer))
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))


def test_gradient_accumulation_counts_updates_not_batches(fit, capsys):
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    callback = PruneWeights(schedule(), verbose=1, scope="layer")
    model = fit(compiled(mlp(), optimizer), callback)
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))
    # 2 epochs of 8 batches are 8 updates, three quarters of which end at step 5.
    assert "final sparsity 0.75 at step 5" in capsys.readouterr().out


def test_second_fit_on_a_traced_model(fit, data):
    model = compiled(mlp())
    model.fit(*data, batch_size=8, verbose=0)
    fit(model)
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))


def test_a_plain_fit_afterwards_trains_all_weights_again(fit, data):
    model = fit(compiled(mlp()))
    with pytest.warns(CompressionWarning, match=r"no PruneWeights.*'keep'"):
        model.fit(*data, batch_size=8, verbose=0)
    assert max(sparsities(model)) < 0.05
    # Once is enough.
    model.fit(*data, batch_size=8, verbose=0)


def test_initial_epoch_counts_as_done(fit, capsys):
    callback = PruneWeights(schedule(end_step=1.0), verbose=1, scope="layer")
    model = fit(compiled(mlp()), callback, epochs=4, initial_epoch=2)
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))
    assert "final sparsity 0.75" in capsys.readouterr().out


def test_a_generator_needs_steps_per_epoch(data):
    model = compiled(mlp())

    def batches():
        while True:
            yield data[0][:8], data[1][:8]

    model.fit(
        batches(),
        steps_per_epoch=8,
        epochs=2,
        verbose=0,
        shuffle=False,
        callbacks=[PruneWeights(schedule(), scope="layer")],
    )
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))


def test_data_of_unknown_length_is_an_error(data):
    def batches():
        yield data[0][:8], data[1][:8]

    with pytest.raises(ValueError, match="pass steps_per_epoch to fit"):
        compiled(mlp()).fit(
            batches(),
            verbose=0,
            shuffle=False,
            callbacks=[PruneWeights(schedule(), scope="layer")],
        )


def test_killed_and_resumed_equals_the_unbroken_run(fit, tmp_path):
    def callbacks():
        return (
            PruneWeights(schedule(end_step=0.9), scope="layer"),
            keras.callbacks.BackupAndRestore(str(tmp_path / "backup")),
        )

    unbroken = fit(compiled(mlp()), callbacks()[0], epochs=4, shuffle=False)

    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(mlp()), *callbacks(), Die(), epochs=4, shuffle=False)
    resumed = compiled(mlp(seed=7))  # a new process knows nothing of the weights
    fit(resumed, *callbacks(), epochs=4, shuffle=False)

    assert sparsities(resumed) == sparsities(unbroken)
    for one, other in zip(resumed.get_weights(), unbroken.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_a_loop_of_ones_own_prunes(data):
    x, y = data
    model = compiled(mlp())
    callbacks = keras.callbacks.CallbackList(
        [PruneWeights(schedule(), scope="layer")], model=model, epochs=2, steps=STEPS
    )
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for batch in range(STEPS):
            part = slice(8 * batch, 8 * batch + 8)
            callbacks.on_train_batch_begin(batch)
            model.train_on_batch(x[part], y[part])
            callbacks.on_train_batch_end(batch)
        callbacks.on_epoch_end(epoch)
    callbacks.on_train_end()
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.75))
    assert model.train_on_batch.__func__ is type(model).train_on_batch


def test_a_fit_that_ends_early_is_told(fit):
    stop = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=1, restore_best_weights=True
    )
    message = r"PruneWeights: the fit ended after .* and the schedule at step"
    with pytest.warns(CompressionWarning, match=message):
        fit(compiled(mlp()), PruneWeights(schedule(), scope="layer"), stop, epochs=9)
