"""Pairs of techniques: what the first one made, after the second.

`docs/pairs.md` shows `OUTCOMES`, and `test_pairs.py` runs them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tfcompress
from tfcompress.core.kernel_values import two_of_four
from tfcompress.core.select import walk
from tfcompress.quantization.wrapper import QuantizedLayer

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
Y = np.random.default_rng(1).normal(size=(64, 8)).astype("float32")
CLUSTERS, RANK = 8, 4
LEVELS = {"w8a8": 255, "w4a8": 15, "w2a8": 3, "w1a8": 3}


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16,), name="x"),
            L.Dense(32, activation="relu", name="first"),
            L.Dense(32, activation="relu", name="second"),
            L.Dense(8, name="last"),
        ]
    )


def fitted(model: keras.Model, *callbacks: Any) -> keras.Model:
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    model.fit(X, Y, epochs=1, verbose=0, shuffle=False, callbacks=list(callbacks))
    return model


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns kernels by the name of their layer, rounded where a fit rounds them."""
    found = {}
    for _, layer in walk(model):
        if isinstance(layer, QuantizedLayer):
            found[layer.name] = layer.rounded_weights()[0]
        elif type(layer) is L.Dense and layer.name not in found:
            found[layer.name] = layer.get_weights()[0]
    return found


@dataclasses.dataclass(frozen=True)
class Technique:
    """One of the two.

    Attributes:
        apply: makes a model of a model, with the callbacks of what came before.
        callback: what holds its result in later fits; None where nothing need.
        kept: says whether what it made is there, of the model it made and a later one.
    """

    apply: Callable[..., keras.Model]
    callback: Callable[[], Any] | None = None
    kept: Callable[[keras.Model, keras.Model], bool] | None = None


def _trained(callback: Callable[[], Any], kept: Callable) -> Technique:
    def apply(model: keras.Model, *before: Any) -> keras.Model:
        return fitted(model, *before, callback())

    return Technique(apply, callback, kept)


def _zeros(before: keras.Model, after: keras.Model) -> bool:
    earlier = kernels(before)

    def kept(name: str, kernel: np.ndarray) -> bool:
        if kernel.shape == earlier[name].shape:
            return bool(np.mean(kernel == 0) >= 0.5)
        return not np.setdiff1d(kernel, earlier[name]).size  # of those that remain

    return all(kept(name, kernel) for name, kernel in kernels(after).items())


def _pattern(_: Any, after: keras.Model) -> bool:
    return all(two_of_four(k[None]) for k in kernels(after).values())


def _clusters(_: Any, after: keras.Model) -> bool:
    counts = [len(np.unique(k[k != 0])) for k in kernels(after).values()]
    return all(count <= CLUSTERS for count in counts)


def _widths(before: keras.Model, after: keras.Model) -> bool:
    """Returns whether no layer of those before is gone, or is wider now."""
    widths = {n: k.shape[-1] for n, k in kernels(after).items()}
    earlier = {n: k.shape[-1] for n, k in kernels(before).items()}
    return all(widths.get(n, 1 << 30) <= width for n, width in earlier.items())


def _integers(levels: int) -> Callable:
    def kept(_: Any, after: keras.Model) -> bool:
        final = kernels(tfcompress.finalize(after))
        return all(
            len(np.unique(column)) <= levels for k in final.values() for column in k.T
        )

    return kept


def _aware(scheme: str) -> Technique:
    def apply(model: keras.Model, *before: Any) -> keras.Model:
        return fitted(tfcompress.quantize_aware(model, scheme), *before)

    return Technique(apply, None, _integers(LEVELS[scheme]))


def _calibrated(scheme: str) -> Technique:
    def apply(model: keras.Model, *_: Any) -> keras.Model:
        return tfcompress.calibrate(model, X, scheme)

    return Technique(apply, None, _integers(LEVELS[scheme]))


def _once(function: Callable, kept: Callable | None = None) -> Technique:
    return Technique(lambda model, *_: function(model), None, kept)


def _distilled(model: keras.Model, *before: Any) -> keras.Model:
    distiller = tfcompress.Distiller(network(), model, "logits_mse")
    distiller.compile(keras.optimizers.SGD(1e-3), "mse")
    distiller.fit(X, Y, epochs=1, verbose=0, shuffle=False, callbacks=list(before))
    return model


def _two_of_four() -> Any:
    return tfcompress.PruneWeights(0.5, pattern=tfcompress.NOfM(2, 4))


TECHNIQUES = {
    "prune": _trained(lambda: tfcompress.PruneWeights(0.5), _zeros),
    "prune 2:4": _trained(_two_of_four, _pattern),
    "cluster": _trained(lambda: tfcompress.ClusterWeights(CLUSTERS), _clusters),
    "shrink": _once(lambda m: tfcompress.shrink(m, 0.5), _widths),
    "factorize": _once(lambda m: tfcompress.factorize(m, rank=RANK), _widths),
    "reconstruct": Technique(
        lambda m, *_: tfcompress.reconstruct(m, X, 0.5),
        lambda: tfcompress.PruneWeights(0.5),  # which keeps the zeros that are there
        _zeros,
    ),
    **{f"quantize_aware {s}": _aware(s) for s in LEVELS},
    "calibrate w8a8": _calibrated("w8a8"),
    "calibrate w4a8": _calibrated("w4a8"),
    "distil": Technique(_distilled),
    "finalize": _once(tfcompress.finalize),
}


def outcome(first: str, second: str, made: keras.Model) -> str:
    """Returns "kept", "lost", or the error or warning in which it is said."""
    import warnings

    one, two = TECHNIQUES[first], TECHNIQUES[second]
    assert one.kept is not None
    model = keras.models.clone_model(made)
    model.set_weights(made.get_weights())
    before = [one.callback()] if one.callback else []
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", tfcompress.CompressionWarning)
            after = two.apply(model, *before)
    except tfcompress.CompressionError as error:
        return f"refused: {error}"
    if said:
        return f"warned: {said[0].message}"
    return "kept" if one.kept(made, after) else "lost"


FIRSTS = [name for name, technique in TECHNIQUES.items() if technique.kept]
_NEW = ("warned", "makes new weights of first")
_AWARE = ("refused", "quantiz")
_QUANTIZED = [name for name in FIRSTS if name.startswith(("quantize", "calibrate"))]
_AGAIN = [f"quantize_aware {scheme}" for scheme in LEVELS]
_AGAIN += ["calibrate w8a8", "calibrate w4a8"]

#: What happens where it is not "kept", and what is said.
OUTCOMES: dict[tuple[str, str], tuple[str, str]] = {
    **{(first, "factorize"): _NEW for first in ("prune", "prune 2:4", "cluster")},
    ("reconstruct", "factorize"): _NEW,
    ("cluster", "reconstruct"): _NEW,
    ("prune 2:4", "shrink"): ("warned", "pattern 2:4.*Shrink first"),
    ("factorize", "factorize"): ("refused", "larger"),
    **{(first, second): _AWARE for first in _QUANTIZED for second in _AGAIN},
    **{(q, second): _AWARE for q in _QUANTIZED for second in ("shrink", "factorize")},
}
_SIGNS = {"kept": "kept", "warned": "a warning", "refused": "refused"}


def table() -> str:
    """Returns the outcomes as a table in markdown."""
    lines = [
        "| first \\ then | " + " | ".join(TECHNIQUES) + " |",
        "|---" * (len(TECHNIQUES) + 1) + "|",
    ]
    for first in FIRSTS:
        cells = [
            _SIGNS[OUTCOMES.get((first, second), ("kept", ""))[0]]
            for second in TECHNIQUES
        ]
        lines.append(f"| {first} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
