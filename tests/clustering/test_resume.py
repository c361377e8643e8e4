"""A clustered run that is saved and resumed: values, members and moments go on."""

import keras
import numpy as np
import pytest

from tests.pruning.pruned import compiled, kernels, mlp
from tfcompress import ClusterWeights, SeedEachEpoch

EPOCHS = 4


@pytest.fixture
def fit():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 12)).astype("float32")
    y = generator.integers(0, 3, 64)

    def run(model, *others, epochs=EPOCHS, **options):
        callbacks = [ClusterWeights(5, begin_step=0.3), SeedEachEpoch(), *others]
        options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
        model.fit(x, y, epochs=epochs, callbacks=callbacks, **options)
        return model

    return run


class Die(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def killed(fit, model, *callbacks):
    with pytest.raises(KeyboardInterrupt):
        fit(model, *callbacks, Die())


def equal(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def momentum(**options):
    return keras.optimizers.SGD(0.1, momentum=0.9, **options)


@pytest.mark.parametrize(
    ("optimizer", "how"),
    [
        (lambda: keras.optimizers.Adam(0.01), {"steps_per_execution": 3}),
        pytest.param(
            lambda: momentum(gradient_accumulation_steps=2), {}, marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: keras.optimizers.AdamW(0.01, amsgrad=True),
            {},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["steps_per_execution", "accumulation", "amsgrad"],
)
def test_resumed_by_backup_equals_unbroken(fit, tmp_path, optimizer, how):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    unbroken = fit(compiled(mlp(), optimizer(), **how))
    killed(fit, compiled(mlp(), optimizer(), **how), backup())
    resumed = fit(compiled(mlp(seed=7), optimizer(), **how), backup())
    assert equal(resumed, unbroken)


def test_resumed_from_a_checkpoint_equals_unbroken(fit, tmp_path):
    path = tmp_path / "{epoch}.keras"
    unbroken = fit(compiled(mlp(), momentum()))
    killed(fit, compiled(mlp(), momentum()), keras.callbacks.ModelCheckpoint(path))
    loaded = keras.models.load_model(tmp_path / "3.keras")
    # What is saved in mid-fit is clustered already.
    assert [len(np.unique(kernel)) for kernel in kernels(loaded)] == [5, 5, 5]
    assert equal(fit(loaded, initial_epoch=3), unbroken)


@pytest.mark.slow
def test_optimizers_that_keep_other_things_about_vectors_begin_anew(fit, tmp_path):
    model = compiled(mlp(), keras.optimizers.Muon())
    killed(fit, model, keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"))
    loaded = fit(keras.models.load_model(tmp_path / "3.keras"), initial_epoch=3)
    assert [len(np.unique(kernel)) for kernel in kernels(loaded)] == [5, 5, 5]
    assert "save_own_variables" not in vars(loaded.optimizer)
