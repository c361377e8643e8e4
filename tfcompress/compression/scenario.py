"""Which techniques help where: an explained default per target and model family."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.channels.dependencies import channel_groups
from tfcompress.compression.stages.shrink import Shrink
from tfcompress.core.errors import CompressionError, CompressionWarning
from tfcompress.core.select import walk
from tfcompress.layers import families_of, kernels_of, model_kernels
from tfcompress.low_rank.factorize import factorize

FAMILIES = ("CNN", "depthwise", "RNN", "transformer", "embeddings", "MLP", "other")
_FLOAT_TARGETS = {"saved_model"}
# What a model is called whose layers are of these families; the first that is met.
_NAMES = {
    "attention": "transformer",
    "recurrent": "RNN",
    "depthwise": "depthwise",
    "convolution": "CNN",
    "dense": "MLP",
}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is asked of which model.

    Attributes:
        target: format of the artifact.
        family: one of `FAMILIES`.
        costs: the measures that the budget limits, or what is made small without.
        teaches: what the outputs are for a student (`Task.teaches`).
        has_free_channels: whether channels can be removed.
    """

    target: str
    family: str
    costs: tuple[str, ...]
    teaches: str
    has_free_channels: bool = True

    @property
    def stores_codes(self) -> bool:
        """Whether weights are stored as codes, which take fewer bytes on a disk."""
        small = {"bytes", "packed_bytes"} & set(self.costs)
        return self.target == "saved_model" and bool(small)

    @property
    def packs_weights(self) -> bool:
        """Whether few bits are counted where a weight is zero or one of few values.

        Vela packs the weights itself, for the NPU to unpack them.
        """
        counted = (
            {"packed_bytes", "bytes"} if self.target == "ethos_u" else {"packed_bytes"}
        )
        return bool(counted & set(self.costs))


@dataclasses.dataclass(frozen=True)
class Considered:
    """A technique that was considered for a scenario.

    Attributes:
        technique: "shrink", "factorize", "prune", "cluster", "quantize" or "distil".
        options: the strengths that are tried, the gentlest first; None leaves it out.
            No options: it is not tried.
        why: the reason, for people.
    """

    technique: str
    options: tuple[Any, ...]
    why: str

    @property
    def tried(self) -> bool:
        return bool(self.options)

    def __str__(self) -> str:
        return f"{self.technique}: {'tried' if self.tried else 'skipped'}: {self.why}"


def scenario_of(
    model: keras.Model, target: str, costs: tuple[str, ...], teaches: str
) -> Scenario:
    """Returns the scenario of a model and a budget."""
    return Scenario(target, family_of(model), costs, teaches, _has_channels(model))


def family_of(model: keras.Model) -> str:
    """Returns the family whose layers hold the weights or do the work.

    >>> family_of(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    'MLP'
    """
    found = [layer for _, layer in walk(model)]
    weights: Counter[bool] = Counter()
    tables = {
        id(variable)
        for layer in found
        if _is_table(layer)
        for _, variable in kernels_of(layer)
    }
    for _, _, variable in model_kernels(model):
        weights[id(variable) in tables] += math.prod(variable.shape)
    if weights[True] > weights[False]:
        return "embeddings"
    families = {family for layer in found for family in families_of(layer)}
    return next((name for kind, name in _NAMES.items() if kind in families), "other")


def possible(model: keras.Model, found: Considered) -> Considered:
    """Returns a technique with those of its strengths that the model can take.

    Channels come in multiples of eight, and layers do not shrink below one: what cannot
    be met is known in a second, and a candidate would cost minutes.
    """
    attempt = _ATTEMPTS.get(found.technique)
    if attempt is None or not found.tried:
        return found
    options = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompressionWarning)
        for option in found.options:
            try:
                if option is not None:
                    attempt(model, option)
                options.append(option)
            except CompressionError:
                continue
    if options == [None]:
        why = "this model is too small, or too tied together, for any of the shares"
        return Considered(found.technique, (), why)
    return dataclasses.replace(found, options=tuple(options))


def considered(scenario: Scenario) -> list[Considered]:
    """Returns what is tried and what is not, and why."""
    return [rule(scenario) for rule in _RULES]


def _shrink(scenario: Scenario) -> Considered:
    name = "shrink"
    if not scenario.has_free_channels:
        return Considered(name, (), "no channels of this model can be removed")
    if scenario.family == "embeddings":
        return Considered(name, (), "most weights are rows of tables, not channels")
    if scenario.family == "depthwise":
        why = "fewer channels are faster everywhere; depthwise nets have few to spare"
        return Considered(name, (None, 0.75, 0.5, 0.35), why)
    why = "fewer channels are smaller and faster everywhere"
    return Considered(name, (None, 0.75, 0.5, 0.35, 0.25), why)


def _factorize(scenario: Scenario) -> Considered:
    name = "factorize"
    if scenario.family in ("CNN", "depthwise"):
        why = "fewer channels save the same work without more layers"
        return Considered(name, (), why)
    why = "large matrices and tables are close to low rank"
    return Considered(name, (None, 0.6, 0.35), why)


def _prune(scenario: Scenario) -> Considered:
    name = "prune"
    if not scenario.packs_weights:
        why = (
            "a zero takes as many bytes and as much time as any number; zeros only "
            "make packed files small"
        )
        return Considered(name, (), why)
    where = "the NPU's file" if scenario.target == "ethos_u" else "a packed file"
    why = f"zeros take few bits in {where}"
    return Considered(name, (None, 0.5, 0.65, 0.75, 0.85, 0.9, 0.95), why)


def _cluster(scenario: Scenario) -> Considered:
    name = "cluster"
    if not scenario.packs_weights and not scenario.stores_codes:
        why = "shared values make packed files small, not the files themselves"
        return Considered(name, (), why)
    why = "shared values take few bits in a packed file"
    return Considered(name, (None, 64, 32, 16), why)


def _quantize(scenario: Scenario) -> Considered:
    name = "quantize"
    if scenario.target in _FLOAT_TARGETS:
        if scenario.stores_codes:
            why = "8-bit weights make the version directory smaller; it runs in float"
            return Considered(name, (None, "w8a8"), why)
        why = "a SavedModel runs integers as floats, which is no faster"
        return Considered(name, (), why)
    if scenario.target == "micro":
        return Considered(name, ("w8a8",), "microcontrollers take integers alone")
    if scenario.target == "ethos_u":
        return Considered(name, ("w8a8",), "the NPU takes integers alone")
    if scenario.target in ("onnx", "openvino"):
        return Considered(name, ("w8a8",), "8-bit integers: a quarter of the bytes")
    if scenario.family in ("depthwise", "RNN", "transformer"):
        why = "8-bit integers; 4 bits cost this family too much accuracy"
        return Considered(name, ("w8a8",), why)
    why = "integers are a quarter of the bytes, and twice as fast in LiteRT"
    if scenario.family != "CNN" or "latency_ms" not in scenario.costs:
        return Considered(name, ("w8a8", "w4a8"), why)
    slow = "4-bit convolutions in half bytes take 3.5 times as long as 8-bit ones"
    if {"bytes", "packed_bytes"}.isdisjoint(scenario.costs):
        return Considered(name, ("w8a8",), f"{why}; {slow}")
    return Considered(name, ("w8a8", "w4a8"), f"{why}; {slow}, so they keep bytes")


def _distil(scenario: Scenario) -> Considered:
    if scenario.teaches == "nothing":
        why = "there is no loss for outputs of this kind"
        return Considered("distil", (), why)
    why = "the original teaches what the labels do not say, at no cost when deployed"
    return Considered("distil", (True,), why)


_ATTEMPTS: dict[str, Callable[[keras.Model, float], Any]] = {
    "shrink": lambda model, share: Shrink(macs=share).smaller(model),
    "factorize": lambda model, share: factorize(model, size=share, conv="spatial"),
}
_RULES = (_shrink, _factorize, _prune, _cluster, _quantize, _distil)


def _is_table(layer: Any) -> bool:
    return "embedding" in families_of(layer) and layer.built


def _has_channels(model: keras.Model) -> bool:
    try:
        return any(not group.fixed for group in channel_groups(model))
    except CompressionError:
        return False  # a subclassed model has no graph to follow channels in
