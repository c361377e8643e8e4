"""Walking a model's layers and choosing some of them by name, type or predicate."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from tfcompress.core.arguments import pattern
from tfcompress.core.errors import InvalidArgumentError, UnsupportedLayerError, warn

Filters = (
    str | type | Callable[[keras.Layer], bool] | Iterable[str | type | Callable] | None
)
# What certainly holds no layer.
_PLAIN = frozenset({bool, int, float, str, bytes, type(None)})


def walk(model: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """Yields `(path, layer)` for every layer inside `model`, each layer once.

    Use it to find layers at any depth: nested models, wrappers and composite
    layers are entered. A path joins the names with `/`; a wrapper that bears the
    name of the layer it holds does not add to it, so `conv1` stays `conv1`.

    Args:
        model: a Keras model or layer; it is not itself yielded.

    Example:

    >>> inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")],
    ...                          name="inner")
    >>> outer = keras.Sequential([keras.Input((4,)), inner])
    >>> [path for path, layer in walk(outer)]
    ['inner', 'inner/a']
    """
    seen: set[int] = {id(model)}

    def visit(parent: keras.Layer, prefix: tuple[str, ...]) -> Iterator:
        for layer in _children(parent):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path = prefix if prefix[-1:] == (layer.name,) else (*prefix, layer.name)
            yield "/".join(path), layer
            yield from visit(layer, path)

    return visit(model, ())


def _children(layer: keras.Layer) -> Iterator[keras.Layer]:
    return iter(places(layer).values())


def places(layer: keras.Layer) -> dict[tuple, keras.Layer]:
    """Returns the layers that a layer holds itself, by where it holds them.

    They are attributes of its own, or in lists and dicts at any depth; a model's are
    its `layers`, by name. A layer that is held twice has the first of its places.
    """
    if isinstance(layer, keras.Model) and layer.layers:
        held: dict[tuple, keras.Layer] = {}
        alike: Counter[str] = Counter()
        for one in layer.layers:
            held["layers", one.name, alike[one.name]] = one
            alike[one.name] += 1
        return held
    table: dict[tuple, keras.Layer] = {}
    seen: set[int] = set()

    def visit(value: Any, place: tuple) -> None:
        if isinstance(value, keras.Layer):
            if id(value) not in seen:
                seen.add(id(value))
                table[place] = value
        elif isinstance(value, (list, tuple)):
            for position, item in enumerate(value):
                if type(item) not in _PLAIN:
                    visit(item, (*place, position))
        elif isinstance(value, dict):
            for key, item in value.items():
                if type(item) not in _PLAIN:
                    visit(item, (*place, key))

    attributes = dict(vars(layer))
    # Keras' own list of all of them comes last: its order is that of their making.
    last = attributes.pop("_layers", None)
    for name, value in attributes.items():
        # Most attributes are plain, and every copy of a model asks for all of them.
        if type(value) not in _PLAIN:
            visit(value, (name,))
    visit(last, ("_layers",))
    return table


def is_graph_model(model: Any) -> bool:
    """Returns whether `model` is Functional or Sequential (and not subclassed)."""
    if isinstance(model, keras.Sequential):
        return True
    return (
        isinstance(model, keras.Model)
        and hasattr(model, "operations")
        and getattr(model, "inputs", None) is not None
    )


def unused_name(name: str, names: set[str]) -> str:
    """Returns `name`, or the first of `name_1`, `name_2` ... that is not in `names`."""
    numbered = (f"{name}_{count}" for count in itertools.count(1))
    candidates = itertools.chain([name], numbered)
    return next(candidate for candidate in candidates if candidate not in names)


def matches(path: str, layer: keras.Layer, filters: Filters) -> bool:
    """Returns whether a layer passes `filters` (see `select`)."""
    if filters is None:
        return True
    if isinstance(filters, str):
        problem = "`filters` is not a valid regular expression"
        return pattern(filters, problem).search(path) is not None
    if isinstance(filters, type):
        return isinstance(layer, filters)
    if callable(filters):
        return bool(filters(layer))
    if not isinstance(filters, Iterable):
        raise InvalidArgumentError(
            "`filters` choose layers.",
            received=repr(filters),
            expected="a regular expression, a class, a function of a layer, or a list "
            "of these",
        )
    return any(matches(path, layer, one) for one in filters)


def select(
    model: keras.Layer,
    filters: Filters = None,
    candidate: Callable[[keras.Layer], Any] = lambda layer: True,
) -> list[tuple[str, keras.Layer]]:
    """Returns the layers of `model` that are candidates and pass `filters`.

    Args:
        model: the model to search.
        filters: `None` for every candidate, a regular expression that is searched
            for in the layer's path, a layer class, a predicate on the layer, or a
            list of these of which one must hold.
        candidate: which layers can be meant at all.

    Returns:
        `(path, layer)` pairs in the order of the model.

    Raises:
        InvalidArgumentError: if there are candidates and `filters` match none.
    """
    candidates = [(path, layer) for path, layer in walk(model) if candidate(layer)]
    chosen = [(p, layer) for p, layer in candidates if matches(p, layer, filters)]
    listed = list(filters) if isinstance(filters, list | tuple | set) else []
    words = [one for one in listed if isinstance(one, str)]
    unused = [one for one in words if not any(matches(*c, one) for c in candidates)]
    if candidates and unused and len(unused) < len(listed):
        raise InvalidArgumentError(
            f"`filters` names layers that model '{model.name}' does not have.",
            received=", ".join(map(repr, unused)),
            expected="expressions that match some of "
            + ", ".join(path for path, _ in candidates),
        )
    if filters is not None and not chosen:
        raise InvalidArgumentError(
            f"`filters` match no layer of model '{model.name}' that this applies to.",
            received=repr(filters),
            expected="a filter that matches at least one of "
            + (", ".join(path for path, _ in candidates) or "(no such layer)"),
            fix="correct the expression, or leave `filters` out to take all of them",
        )
    return chosen


def require_built(model: Any, purpose: str) -> None:
    """Raises `InvalidArgumentError` unless `model` is a built, non-empty model."""
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError(
            f"Cannot {purpose}: not a Keras model.",
            received=f"{type(model).__name__}",
            expected="a keras.Model",
        )
    # A subclassed model may make its layers only when it is built.
    parts = [layer for _, layer in walk(model)]
    if not isinstance(model, keras.Sequential):
        parts += getattr(model, "operations", [])  # of `keras.ops`, they are no layers
    empty = all(isinstance(part, keras.layers.InputLayer) for part in parts)
    if empty and (model.built or isinstance(model, keras.Sequential)):
        raise InvalidArgumentError(
            f"Cannot {purpose}: model '{model.name}' has no layers.",
            expected="a model with at least one layer",
        )
    if not model.built:
        raise InvalidArgumentError(
            f"Cannot {purpose}: model '{model.name}' has not been built.",
            received="a model without weights",
            expected="a model that knows its input shape",
            fix="add keras.Input(shape) as the first layer, call model.build(shape), "
            "or call the model once on data",
        )
    if isinstance(model, keras.Sequential):
        try:
            _ = model.inputs
        except AttributeError as error:
            raise InvalidArgumentError(
                f"Cannot {purpose}: model '{model.name}' does not know its own shapes.",
                received="a Sequential with a layer that does not say what it puts out",
                expected="layers with compute_output_shape, or that can be traced",
                fix="give the layer a `compute_output_shape`",
            ) from error
    refuse_keras_quantization(model, purpose)


def refuse_keras_quantization(model: keras.Model, purpose: str) -> None:
    """Raises for layers that `keras.Model.quantize` has rounded, by their names.

    They store integers and compute in floats, with operations that only Keras runs.
    """
    rounded = rounded_by_keras(model)
    if rounded:
        raise InvalidArgumentError(
            f"Cannot {purpose}: Keras' own `model.quantize` has rounded layers of "
            f"'{model.name}'.",
            received=rounded,
            expected="the float model, from before model.quantize",
            fix="quantize it with tfcompress.calibrate(model, data) or quantize_aware "
            "('w8a8', or 'w4a8' for 4 bits), whose integers devices compute with",
        )


def rounded_by_keras(model: Any) -> str:
    """Returns the layers that `keras.Model.quantize` has rounded, "" for none."""
    if not isinstance(model, keras.Model):
        return ""  # what it is, someone else says
    return ", ".join(
        f"{path} ({mode})"
        for path, layer in walk(model)
        if (mode := getattr(layer, "quantization_mode", None)) is not None
        and not isinstance(layer, keras.Model)
    )


def refuse_quantized(model: keras.Model, action: str) -> None:
    """Raises for a model in integers, whose structure can change no longer.

    Args:
        model: what the user gave.
        action: what is to be done, such as "shrink".
    """
    layers = [
        path
        for path, layer in walk(model)
        if type(layer).__module__.startswith("tfcompress.quantization")
    ]
    if layers:
        raise InvalidArgumentError(
            f"Cannot {action} '{model.name}': it is quantized already.",
            received=", ".join(layers[:3]) + ", ..." * (len(layers) > 3),
            expected="the float model",
            fix=f"{action} first, then quantize what comes out",
        )


def exclude(
    names: list[str], what: str, reason: str, fix: str, asked_for: bool
) -> None:
    """Names layers that are left out: a warning, or an error if they were asked for.

    Args:
        names: the layers.
        what: what they are not, such as "pruned".
        reason: why, as the end of "because ...".
        fix: what the user can do about it.
        asked_for: whether `filters` ask for them.
    """
    if asked_for:
        raise UnsupportedLayerError(
            f"`filters` ask for layers that cannot be {what}: {reason}.",
            received=", ".join(names),
            expected="filters that leave these layers out",
            fix=fix,
        )
    warn(f"Not {what}, because {reason}: {', '.join(names)}. What to do: {fix}.")


_TRAINING = ("train_step", "test_step", "compute_loss", "compute_metrics")


def warn_of_own_training(model: Any, what: str) -> None:
    """Warns of a model that says itself how it is trained, which a copy does not do.

    Args:
        model: what was copied.
        what: what the copy is called: "quantized".
    """
    if not isinstance(model, keras.Model):
        return
    own = [
        name
        for name in _TRAINING
        if name in vars(model)
        or getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if own:
        warn(
            f"Model '{model.name}' of type {type(model).__name__} has {', '.join(own)} "
            f"of its own. The {what} copy does not use them: `fit` trains it with the "
            "loss that it is compiled with. To keep them, train it inside a model "
            "whose class has them and whose `call` calls the copy."
        )
