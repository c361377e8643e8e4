"""Every technique under what Keras can do to a training step; LoRA is left out."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.scripts import load_script
from tfcompress.core.errors import CompressionWarning, UnsupportedLayerError

techniques = load_script("benchmarks/_techniques.py")


def adam(**options):
    return lambda: keras.optimizers.Adam(0.01, **options)


MODES = {
    "mixed_float16": {"policy": "mixed_float16"},
    "mixed_bfloat16": {"policy": "mixed_bfloat16"},
    "XLA": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 3},
    "gradient accumulation": {"optimizer": adam(gradient_accumulation_steps=2)},
    "EMA": {"optimizer": adam(use_ema=True)},
    "weight decay": {"optimizer": adam(weight_decay=0.1)},
    "frozen": {"frozen": True},
}


def fit(technique, frozen=False, optimizer=None, policy="float32", **options):
    """Returns the trained model; also the student of a distiller."""
    keras.config.set_dtype_policy(policy)
    change, callbacks = techniques.TECHNIQUES[technique]
    network = techniques.network()
    network.get_layer("conv").trainable = not frozen
    model = change(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile((optimizer or adam())(), loss, **options)
    callbacks = callbacks()
    if optimizer is MODES["EMA"]["optimizer"]:
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    before = network.get_weights()
    history = model.fit(
        *techniques.data(), batch_size=8, epochs=4, verbose=0, callbacks=callbacks
    )
    losses = history.history["loss"]
    assert losses[-1] < losses[0]
    trained = getattr(model, "student", model)
    if frozen:
        # In integers a frozen kernel is rounded, and moves by half a step at most.
        rounded = "quantize" in technique or technique == "all together"
        allowed = np.abs(before[0]).max() / 127 / 2 * 1.001 if rounded else 0.0
        assert np.abs(kernel(trained, "conv") - before[0]).max() <= allowed
    return trained


def kernel(model, name):
    layer = model.get_layer(name)
    return np.array(getattr(layer, "layer", layer).kernel)


# One pair for each mode and each technique; all pairs are slow.
PAIRS = [(technique, mode) for technique in techniques.TECHNIQUES for mode in MODES]
FAST = {
    ("prune channels", "mixed_float16"),
    ("penalize", "EMA"),
    ("train sparse", "gradient accumulation"),
    ("cluster", "weight decay"),
}


@pytest.mark.parametrize(
    ("technique", "mode"),
    [
        pytest.param(*pair, marks=[] if pair in FAST else pytest.mark.slow)
        for pair in PAIRS
    ],
)
def test_technique_in_mode(technique, mode):
    model = fit(technique, **MODES[mode])
    logits = kernel(model, "logits")
    assert logits.dtype == "float32"
    assert np.all(np.isfinite(logits))
    zeros = np.mean(logits == 0)
    if technique in ("prune", "prune by gradients", "all together"):
        assert zeros == pytest.approx(0.75, abs=0.01)
    elif technique == "prune channels":
        assert zeros == 0.5  # what reads channels is pruned with them
        filters = kernel(model, "conv").reshape(-1, 8)
        dead = np.all(filters == 0, axis=0).sum()
        assert dead == (0 if mode == "frozen" else 4)
    elif technique.startswith("train sparse"):
        assert zeros > 0.3
    elif technique == "penalize":
        # An average of weights that were zero at times is not.
        assert (zeros > 0) == (mode != "EMA")
    if technique in ("cluster", "all together"):
        assert len(np.unique(logits)) <= 6


@pytest.fixture
def with_lora():
    model = techniques.network()
    model.get_layer("logits").enable_lora(2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda **f: tfcompress.PruneWeights(0.5, **f), "pruned"),
        (lambda **f: tfcompress.ClusterWeights(4, **f), "clustered"),
    ],
)
def test_lora_layers_are_left_out_by_name(with_lora, make, what):
    x, y = techniques.data()
    with pytest.warns(CompressionWarning, match=f"Not {what}, because LoRA.*: logits"):
        with_lora.fit(x, y, verbose=0, callbacks=[make()])
    compressed = kernel(with_lora, "conv")
    assert np.mean(compressed == 0) == 0.5 or len(np.unique(compressed)) == 4
    with pytest.raises(UnsupportedLayerError, match=r"LoRA.*logits.*merge them first"):
        with_lora.fit(x, y, verbose=0, callbacks=[make(filters="logits")])


def test_lora_layers_stay_float(with_lora):
    with pytest.warns(CompressionWarning, match=r"logits \(Dense\).*LoRA.*merge"):
        model = tfcompress.quantize_aware(with_lora)
    model.compile("adam", with_lora.loss)
    model.fit(*techniques.data(), verbose=0)
    x = techniques.data()[0]
    difference = tfcompress.finalize(model)(x) - model(x)
    assert np.abs(difference).max() < 0.05
    with pytest.raises(UnsupportedLayerError, match="LoRA"):
        tfcompress.quantize_aware(with_lora, filters="logits")
