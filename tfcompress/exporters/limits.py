"""What a format cannot take, as data: `doctor` reads it, the exporters hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """What an export format cannot take.

    Use it to tell, before training, whether a model will deploy. What is not named
    here is tried by the converter itself.

    Args:
        runtime: what runs the artifact.
        activations: bits of activations that a quantized model may have here, such as
            (8, 16); empty where quantized models are not computed in integers.
        float_models: whether a model without quantization is taken.
        layers: layer class names that the format refuses or computes in another way,
            with what to do about it.
        dynamic_batch: whether the number of samples may be left free.
        text_inputs: whether inputs may be strings.
        operators: names of the operators that the runtime has; empty for all that the
            converter knows.
        keeps_states: whether layers can keep a state from call to call.
        missing: operations of TensorFlow's graphs that the converter has no form for,
            with what to do about them.
        prices: what activations of so many bits cost there in time, where that may be
            a reason against them.

    Example:

    >>> Limits("LiteRT", activations=(8, 16)).float_models
    True
    """

    runtime: str
    activations: tuple[int, ...] = ()
    float_models: bool = True
    layers: Mapping[str, str] = field(default_factory=dict)
    dynamic_batch: bool = True
    text_inputs: bool = False
    operators: frozenset[str] = frozenset()
    keeps_states: bool = True
    missing: Mapping[str, str] = field(default_factory=dict)
    prices: Mapping[int, str] = field(default_factory=dict)
