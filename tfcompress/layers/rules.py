"""The one table of layer types: a row holds all that is known of a type.

Pruning, quantization, removal of channels, low rank, exports and reports read it; a
layer type is described here and nowhere else. `families` has a file of rows for each
kind of layers. Rooms that know more about a type, such as what integers can compute of
it, file that in a column of its row (`column`).

A row belongs to a layer class, and to its subclasses as long as they compute the same;
to a class behind `keras.ops`, which has no public name, by its name ("Matmul"); or to a
layer of `keras.applications` that has none either ("applications.LayerScale").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import keras
from keras import layers

from tfcompress.core.graph import Node, Tensor
from tfcompress.core.select import walk
from tfcompress.layers.kernels import Kernel

Flow = Literal[
    "compute",  # a linear operation with a kernel: its output has a range of its own
    "fold",  # scale and offset per channel: part of the operation before it
    "activate",  # an elementwise activation
    "arithmetic",  # any other operation that makes new numbers (Add, mean ...)
    "select",  # passes some of its input's numbers on: shares the input's range
    "average",  # averages within its input's range, which integer kernels keep
    "concatenate",  # all inputs and the output share one range
    "lookup",  # reads whole numbers, makes new ones (Embedding, a cast to floats)
    "float",  # no integer kernel is known
]

Family = Literal[
    "", "attention", "convolution", "dense", "depthwise", "embedding", "recurrent"
]

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Unknown:
    """What stands in the column `macs` of a `LayerRule` where none can be counted.

    When to use: for a layer of your own whose work depends on its data; `macs` of a
    model with such a layer raises an error that names it and says the reason.

    Args:
        reason: why, "the work depends on an algorithm".

    Example:

    >>> LayerRule(keras.layers.Layer, macs=Unknown("it calls a service")).macs.reason
    'it calls a service'
    """

    reason: str


Macs = Callable[[Any, list, tuple], int]

HeldCall = tuple[int, Any, list]
"""How often a held layer is called for one call, which it is, and on what."""

HeldCalls = Callable[[Any, list], Iterable[HeldCall]]


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """What tfcompress knows about a layer type.

    A column that is `None` is looked up in the row of the class that the type inherits
    from, if both have one `call`; only `channels` is not.

    Attributes:
        layer_type: the Keras layer class; subclasses inherit the rule. Operations of
            `keras.ops` are named by the class behind them, "Matmul".
        flow: how the layer treats the numbers that flow through it; `None` for what
            its `call` does, which is looked into.
        kernels: weights that can be pruned, clustered and quantized.
        macs: `(layer, input shapes, output shape) -> int`, multiply-accumulates of
            one sample, shapes without the batch axis and inputs in the order of
            `call` (of operations: with the batch axis). With `None`, what the layer's
            `call` does is counted.
        channel_granularity: whether integer kernels take one scale per channel.
        channels: how channels flow through, which `shrink` must know to remove
            some: `"same"` for a layer that treats each channel on its own, another
            name from docs/shrink.md, or a function of a
            `tfcompress.channels.call.Call`. With `None`, the channels that go
            in and come out stay.
        training_only: whether it gives on its input unchanged once training is over,
            as dropout does; `finalize` takes it out.
        holds: of a layer that multiplies nothing but in the layers that it holds:
            `(layer, inputs) -> [(times, held layer, its inputs), ...]`.
        expansion: the integer form: `(layer, parts, *inputs) -> outputs`, which says
            the layer in simpler ones, made by `parts` (docs/quantization.md). It raises
            `StaysFloat` where there is none. With `None`, `flow` says all.
        constants: what the layer makes of channels that hold one number whatever the
            input: `"each"`, it runs on each number; `"moved"`, they go where `channels`
            says; or a function `(layer, values by axis) -> values`. With `None`, what
            the named channel rule says.
        integers: an `IntegerKernel`: what the kernel that computes it with integers
            does beyond what `flow` says. With `None`, nothing.
        matrix: a `Matrix`, if the kernel is multiplied with rows: for `reconstruct`,
            `factorize(data=)` and rounding by reconstruction.
        factors: `(layer, nodes, moments) -> Form`, how `factorize` says the layer as a
            product of smaller ones.
        refused_by: what to do about it where an export format cannot take the layer or
            computes it otherwise, by the format's name.
        family: what the layer makes of a model that does most of its work in it.
        streams: how the layer runs on a part of a sequence, for `streaming`: `"each"`,
            each step on its own; or a function of a `tfcompress.sequences.call.Call`.
            With `None`, it needs the whole sequence.
    """

    layer_type: type | str
    flow: Flow | None = "float"
    kernels: tuple[Kernel, ...] = ()
    macs: Macs | Unknown | None = None
    channel_granularity: bool = True
    channels: str | Callable[[Any], None] | None = None
    training_only: bool = False
    holds: HeldCalls | None = None
    expansion: Callable[..., Any] | None = None
    constants: str | Callable[..., Any] | None = None
    integers: Any = None
    matrix: Any = None
    factors: Callable[..., Any] | None = None
    refused_by: Mapping[str, str] | None = None
    family: Family = ""
    streams: str | Callable[[Any], Any] | None = None

    @property
    def name(self) -> str:
        """The name of the type."""
        kind = self.layer_type
        return kind if isinstance(kind, str) else kind.__name__


_rules: dict[type | str, LayerRule] = {}


def register_layer_rule(rule: LayerRule) -> LayerRule:
    """Adds a rule to the table, or replaces the one of the same layer type.

    When to use: to teach tfcompress a layer of your own.

    Args:
        rule: the rule.

    Returns:
        The rule.

    Example:

    >>> class Scaled(keras.layers.Dense):
    ...     pass
    >>> rule_of(Scaled(2)).layer_type.__name__     # inherited
    'Dense'
    >>> rule = LayerRule(Scaled, "compute", (Kernel("kernel"),))
    >>> register_layer_rule(rule) is rule_of(Scaled(2))
    True
    """
    _rules[rule.layer_type] = rule
    return rule


def fill(kinds: Iterable[type | str], **cells: Any) -> None:
    """Files values in columns of the rows of these types; a new row has no flow."""
    for kind in kinds:
        row = _rules.get(kind) or LayerRule(kind, flow=None)
        register_layer_rule(dataclasses.replace(row, **cells))


def column(name: str, *kinds: type | str) -> Callable[[Value], Value]:
    """Returns a decorator that files a function in a column of these types."""

    def decorate(value: Value) -> Value:
        fill(kinds, **{name: value})
        return value

    return decorate


def refuse(reasons: Mapping[str, str], *formats: str) -> Mapping[str, str]:
    """Files what export formats cannot take, by names of Keras' layers; returns it."""
    for name, reason in reasons.items():
        kind = getattr(layers, name)
        others = _rules[kind].refused_by if kind in _rules else None
        refused_by = {**(others or {}), **dict.fromkeys(formats, reason)}
        fill((kind,), refused_by=refused_by)
    return reasons


def wrapped(layer: Any, inputs: list) -> list[HeldCall]:
    """What a wrapper holds that calls its layer once, on its first input."""
    return [(1, layer.layer, inputs[:1])]


def existing(names: str) -> tuple[type, ...]:
    """Returns the layers of these names that the installed Keras has."""
    return tuple(getattr(layers, n) for n in names.split() if hasattr(layers, n))


def rows() -> list[LayerRule]:
    """Returns all rows of the table."""
    return list(_rules.values())


def rule_of(layer: Any) -> LayerRule | None:
    """Returns the rule for a layer, looked up along its class's MRO."""
    return rule_of_type(type(layer))


def rule_of_type(layer_type: type) -> LayerRule | None:
    """Returns the rule for a layer class, its own or inherited.

    Of a rule that a class inherits whose `call` is another, only the kernels are left:
    what it computes with them is not known.
    """
    for cls in layer_type.__mro__:
        if cls in _rules and _rules[cls].flow is not None:
            if has_call_of_its_own(layer_type, cls):
                return LayerRule(layer_type, kernels=_rules[cls].kernels)
            return _rules[cls]
    return None


def rows_of(operation: Any) -> Iterator[LayerRule]:
    """Yields the rows that say what an operation computes, its own before inherited."""
    kind = type(operation)
    keys: list[type | str] = []
    if isinstance(operation, keras.Layer):
        for cls in kind.__mro__:
            if cls in _rules:
                if has_call_of_its_own(kind, cls):
                    break
                keys.append(cls)
        if "applications" in kind.__module__:
            keys.append(f"applications.{kind.__name__}")
    else:
        keys.append(operation_name(operation))
    yield from (_rules[key] for key in keys if key in _rules)


def cell(operation: Any, name: str) -> Any:
    """Returns what the table says of an operation in a column, `None` for nothing."""
    cells = (getattr(row, name) for row in rows_of(operation))
    return next((value for value in cells if value is not None), None)


def families_of(layer: Any) -> set[str]:
    """Returns the families of a layer's class and of those that it inherits from."""
    rules = (_rules[cls] for cls in type(layer).__mro__ if cls in _rules)
    return {rule.family for rule in rules if rule.family}


def knows(layer: Any) -> bool:
    """Returns whether the table says what a layer computes, not its kernels alone."""
    kinds = type(layer).__mro__
    known = next((c for c in kinds if c in _rules and _rules[c].flow), None)
    return known is not None and not has_call_of_its_own(type(layer), known)


def changes_nothing(node: Node) -> bool:
    """Returns whether a node gives on its input unchanged once training is over."""
    layer = node.operation
    if isinstance(layer, layers.Pipeline):
        inner = [dataclasses.replace(node, operation=held) for held in layer.layers]
        return all(map(changes_nothing, inner))
    rule = rule_of(layer)
    alone = len(node.args) == 1 and isinstance(node.args[0], Tensor)
    # A `training=True` of the call has no say: `predict` and exports overrule it. A
    # subclass with a `call` of its own has: Monte Carlo dropout goes on for ever.
    return rule is not None and rule.training_only and alone


def has_call_of_its_own(layer_type: type, known: type) -> bool:
    """Returns whether a subclass computes something else than the class it is of."""
    return getattr(layer_type, "call", None) is not getattr(known, "call", None)


def kernels_of(layer: keras.Layer) -> Iterator[tuple[Kernel, keras.Variable]]:
    """Yields the kernels of a layer that exist, with their variables."""
    rule = rule_of(layer)
    for kernel in rule.kernels if rule else ():
        variable = kernel.find(layer)
        if variable is not None:
            yield kernel.of(layer), variable


def model_kernels(
    model: keras.Model,
) -> Iterator[tuple[str, Kernel, keras.Variable]]:
    """Yields `(layer path, kernel, variable)` for all kernels, each variable once."""
    seen: set[int] = set()
    for path, layer in walk(model):
        for kernel, variable in kernels_of(layer):
            if id(variable) not in seen:
                seen.add(id(variable))
                yield path, kernel, variable


def operation_name(operation: Any) -> str:
    """Returns the class name of an operation of Keras' own; "" for anything else.

    Classes behind `keras.ops` have no public name, so the table names them by text. A
    user's class that bears the same name is another operation.
    """
    kind = type(operation)
    return kind.__name__ if kind.__module__.split(".")[0] == "keras" else ""
