"""TFMOT as an oracle: the same schedules and, on the same weights, the same masks."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress import ConstantSparsity, PolynomialSparsity, PruneWeights
from tfcompress.pruning.masks import layer_masks

pytestmark = pytest.mark.oracle

POLYNOMIALS = {
    "cubic": ((0.0, 0.8), {"begin_step": 0, "end_step": 1000, "frequency": 100}),
    "late": ((0.2, 0.95), {"begin_step": 137, "end_step": 761, "frequency": 25}),
    "linear": (
        (0.1, 0.6),
        {"begin_step": 5, "end_step": 55, "power": 1, "frequency": 100},
    ),
    "steep": (
        (0.0, 0.99),
        {"begin_step": 10, "end_step": 500, "power": 7.5, "frequency": 100},
    ),
    "each": ((0.3, 0.7), {"begin_step": 0, "end_step": 40, "frequency": 1}),
    "shrinking": (
        (0.9, 0.4),
        {"begin_step": 0, "end_step": 300, "power": 2, "frequency": 100},
    ),
}
CONSTANTS = {
    "half": (0.5, {"begin_step": 0, "frequency": 100}),
    "from_100": (0.9, {"begin_step": 100, "end_step": 700, "frequency": 50}),
}
STEPS = sorted({*range(0, 60), *range(60, 1101, 13), 500, 700, 761, 1000})

SPARSITIES = [0.0, 0.1, 0.25, 0.3333, 0.5, 0.675, 0.8, 0.9, 0.95, 0.99]


def distinct_weights():
    rng = np.random.default_rng(3)
    shapes = {
        "dense": (30, 20),
        "odd": (17, 13),
        "wide": (784, 300),
        "conv": (3, 3, 8, 16),
        "point": (1, 1, 5, 7),
        "tiny": (1, 3),
    }
    return {name: rng.normal(size=s).astype("float32") for name, s in shapes.items()}


def tied_weights():
    rng = np.random.default_rng(4)
    return {
        "few_values": rng.integers(-4, 5, (24, 16)).astype("float32"),
        "constant": np.full((8, 8), -0.5, "float32"),
        "half_zero": np.where(
            rng.uniform(size=(16, 16)) < 0.5, 0, rng.normal(size=(16, 16))
        ).astype("float32"),
    }


FIT = {
    "config": {
        "initial_sparsity": 0.0,
        "final_sparsity": 0.75,
        "begin_step": 0,
        "end_step": 12,
        "frequency": 4,
    },
    "epochs": 4,
}


def fit_data():
    rng = np.random.default_rng(5)
    return {
        "fit_weights": rng.normal(size=(16, 8)).astype("float32"),
        "fit_x": rng.normal(size=(40, 16)).astype("float32"),
        "fit_y": rng.normal(size=(40, 8)).astype("float32"),
    }


def mask_key(name, sparsity):
    return f"mask_{name}_{sparsity}"


@pytest.fixture(scope="session")
def tfmot(tmp_path_factory):
    """Asks TFMOT everything at once; starting it is what takes time."""
    pytest.importorskip("tf_keras")
    folder = tmp_path_factory.mktemp("tfmot")
    schedules = [
        {
            "key": f"polynomial_{name}",
            "kind": "PolynomialDecay",
            "config": {"initial_sparsity": low, "final_sparsity": high, **config},
            "steps": STEPS,
        }
        for name, ((low, high), config) in POLYNOMIALS.items()
    ] + [
        {
            "key": f"constant_{name}",
            "kind": "ConstantSparsity",
            "config": {"target_sparsity": value, **config},
            "steps": STEPS,
        }
        for name, (value, config) in CONSTANTS.items()
    ]
    weights = {**distinct_weights(), **tied_weights()}
    masks = [
        {"key": mask_key(name, s), "weights": name, "sparsity": s}
        for name in weights
        for s in SPARSITIES
    ]
    fits = [{"key": "fit", **FIT}]
    plan = json.dumps({"schedules": schedules, "masks": masks, "fits": fits})
    np.savez(folder / "questions.npz", plan=plan, **weights, **fit_data())
    worker = Path(__file__).with_name("_tfmot_worker.py")
    result = subprocess.run(
        [sys.executable, worker, folder / "questions.npz", folder / "answers.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    with np.load(folder / "answers.npz") as answers:
        return dict(answers)


def tfmot_keeps(size, sparsity):
    """TFMOT's rounding: half to even, in float32, at least one."""
    kept = np.round(np.float32(size) * (np.float32(1) - np.float32(sparsity)))
    return max(int(kept), 1)


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomial_values_and_steps(tfmot, name):
    (low, high), config = POLYNOMIALS[name]
    ours = PolynomialSparsity(low, high, **config)
    theirs = tfmot[f"polynomial_{name}"]
    values = [ours(step) for step in STEPS]
    assert np.max(np.abs(values - theirs[:, 1])) < 1e-6
    # Ours adds the end itself, so that the final sparsity is always reached.
    due = [
        bool(d) or step == config["end_step"] for step, d in zip(STEPS, theirs[:, 0])
    ]
    assert [ours.is_due(step) for step in STEPS] == due


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_values_and_steps(tfmot, name):
    value, config = CONSTANTS[name]
    ours = ConstantSparsity(value, **config)
    theirs = tfmot[f"constant_{name}"]
    assert np.max(np.abs([ours(s) for s in STEPS] - theirs[:, 1])) < 1e-6
    assert [ours.is_due(step) for step in STEPS] == theirs[:, 0].astype(bool).tolist()


@pytest.mark.parametrize("name", list(distinct_weights()))
def test_masks_are_equal_on_weights_without_ties(tfmot, name):
    weights = distinct_weights()[name]
    for sparsity in SPARSITIES:
        (ours,) = layer_masks([np.abs(weights)], np.float32(sparsity))
        theirs = tfmot[mask_key(name, sparsity)]
        different = int(np.sum(np.asarray(ours) != theirs.astype(bool)))
        assert different == 0, f"{different} weights at sparsity {sparsity}"
        assert int(theirs.sum()) == tfmot_keeps(weights.size, sparsity)


@pytest.mark.parametrize("name", list(tied_weights()))
def test_masks_on_ties_keep_the_exact_count_of_what_tfmot_keeps(tfmot, name):
    # TFMOT keeps every weight as large as the smallest one kept, and so prunes too
    # little where weights are equal; ours keeps the first of them.
    weights = tied_weights()[name]
    for sparsity in SPARSITIES:
        (ours,) = layer_masks([np.abs(weights)], np.float32(sparsity))
        ours, theirs = np.asarray(ours), tfmot[mask_key(name, sparsity)].astype(bool)
        assert int(np.sum(ours & ~theirs)) == 0
        assert int(ours.sum()) == tfmot_keeps(weights.size, sparsity)
        smallest = np.abs(weights)[theirs].min()
        assert np.all(np.abs(weights)[theirs & ~ours] == smallest)


def test_a_whole_fit_ends_at_the_same_sparsity_and_nearly_the_same_mask(tfmot):
    data = fit_data()
    model = keras.Sequential(
        [keras.Input((16,)), keras.layers.Dense(8, use_bias=False)]
    )
    model.set_weights([data["fit_weights"]])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    config = dict(FIT["config"])
    schedule = PolynomialSparsity(
        config.pop("initial_sparsity"), config.pop("final_sparsity"), **config
    )
    model.fit(
        data["fit_x"],
        data["fit_y"],
        batch_size=8,
        epochs=FIT["epochs"],
        shuffle=False,
        verbose=0,
        callbacks=[PruneWeights(schedule)],
    )
    ours, theirs = model.get_weights()[0], tfmot["fit"]
    assert float(np.mean(theirs == 0)) == 0.75
    assert float(np.mean(ours == 0)) == 0.75
    agreement = float(np.mean((ours == 0) == (theirs == 0)))
    # TFMOT ranks the weights before a step, ours after it: a few change places.
    assert agreement > 0.95
