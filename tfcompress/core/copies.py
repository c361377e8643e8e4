"""Copies of layers that lose nothing: what a `.keras` file keeps, a copy keeps too.

A layer's state is more than its weights: vocabularies, boundaries of bins, whatever a
custom layer hands to `save_own_variables` and `save_assets`. Copies get it through
these very methods. They never go through a file's deserialization: layers and
functions are at hand, so that nothing has to be registered, trusted or guessed.
"""

from __future__ import annotations

import contextlib
import functools
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import InvalidArgumentError, one_line
from tfcompress.core.ownership import scratch
from tfcompress.core.select import is_graph_model, places, walk

_MARK = "tfcompress_held"
_HOOKS = ("save_own_variables", "load_own_variables")


class Copies:
    """Copies layers and operations, each of them once.

    What a layer holds is copied with it. Two layers that hold one layer have copies
    that hold one, so that tied weights stay tied.
    """

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}

    def of(self, operation: Any) -> Any:
        """Returns the copy of an operation, not built, with all but its weights."""
        if id(operation) not in self._copies:
            # The original is kept too, for as long as its id stands for it.
            self._copies[id(operation)] = operation, self._made(operation, {})
        return self._copies[id(operation)][1]

    def _made(self, operation: Any, changes: dict) -> Any:
        if is_graph_model(operation) and not changes:
            return keras.models.clone_model(
                operation, clone_function=self.of, recursive=True
            )
        held: dict[str, Any] = {}
        if isinstance(operation, keras.Layer):
            held = {str(id(layer)): layer for _, layer in walk(operation)}
        functions: dict[str, Callable] = {}

        class Held:
            """Stands in a config for what is at hand."""

            @classmethod
            def from_config(cls, config: dict) -> Any:
                key = config["key"]
                if key in functions:
                    return functions[key]
                return self._held(held[key])

        try:
            with _marked(held), _named(operation), warnings.catch_warnings():
                # Nothing goes into a file: functions are taken as they are.
                warnings.filterwarnings(
                    "ignore", "The object being serialized includes"
                )
                config = operation.get_config()
            config = _with_references(config)
            for key, function in _functions(operation, config).items():
                functions[key], config[key] = function, _reference(key)
            with keras.saving.custom_object_scope({_MARK: Held}):
                copy = type(operation).from_config({**config, **changes})
        except InvalidArgumentError:
            raise
        except Exception as error:
            raise _not_copied(operation, error) from error
        if "name" not in changes and copy.name != operation.name:
            copy.name = operation.name  # not every config of a layer has it
        if isinstance(operation, keras.Layer):
            for old, new in _pairs(operation, copy, complete=False):
                # Layers without a name of their own get a new one in each copy.
                if old is not operation and new.name != old.name:
                    new.name = old.name
                # What a vocabulary holds says how large outputs are.
                if hasattr(old, "save_assets"):
                    _build_as(old, new)
                    _load_saved(old, new)
        return copy

    def _held(self, layer: keras.Layer) -> keras.Layer:
        copy = self.of(layer)
        _build_as(layer, copy)
        return copy


def clone_operation(operation: Any, **changes: Any) -> Any:
    """Returns a fresh copy of a layer or `keras.ops` operation, without its weights.

    Args:
        operation: what to copy.
        **changes: entries of its config that the copy has otherwise.
    """
    return Copies()._made(operation, changes)


def copy_state(source: keras.Layer, target: keras.Layer) -> None:
    """Gives a copy that has been called all that its original keeps.

    Raises:
        InvalidArgumentError: if the copy has no place for it.
    """
    for old, new in _pairs(source, target):
        if new.trainable != old.trainable:
            new.trainable = old.trainable
        if not old.built and not hasattr(old, "save_assets"):
            continue
        _build_as(old, new)
        if _saves_itself(old):
            _load_saved(old, new)
        weights, places_ = _own_weights(old), _own_weights(new)
        if [tuple(v.shape) for v in weights] == [tuple(v.shape) for v in places_]:
            for value, variable in zip(weights, places_):
                variable.assign(keras.ops.convert_to_numpy(value))
        elif not _saves_itself(old):
            raise InvalidArgumentError(
                f"Cannot copy layer '{old.name}' of type {type(old).__name__}: its "
                "copy has other weights.",
                received=_shapes(places_),
                expected=_shapes(weights),
                fix="make all weights and layers in __init__() or in build(), from "
                "what get_config() says",
            )
        settle(new)


def give_weights(layer: keras.Layer, weights: list) -> None:
    """Sets the weights of a layer, and what it has computed from them."""
    layer.set_weights(weights)
    settle(layer)


def settle(layer: keras.Layer) -> None:
    """Lets a layer compute what it computes from its weights once."""
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # it computes with tensors, not with its weights


def copy_model(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers and state that shares nothing with it.

    Nested models stay nested; `build(trace(model))` inlines them.
    """
    copy = Copies().of(model)
    copy_state(model, copy)
    return copy


def fresh_copy(model: keras.Model) -> keras.Model:
    """Returns a model that has still to be trained, like `model` before its training.

    What layers have adapted to (vocabularies, means) is no matter of training, and
    stays.
    """
    copy = Copies().of(model)
    for old, new in _pairs(model, copy):
        if hasattr(old, "adapt") or hasattr(old, "save_assets"):
            copy_state(old, new)
        elif new.trainable != old.trainable:
            new.trainable = old.trainable
    return copy


def _pairs(
    source: Any, target: Any, complete: bool = True
) -> Iterator[tuple[Any, Any]]:
    """Yields each layer with the one that has its place in a copy, owners first.

    Args:
        source: the original.
        target: its copy.
        complete: whether all places must be there already.
    """
    seen: set[int] = set()

    def visit(old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
        if id(old) in seen:
            return
        seen.add(id(old))
        yield old, new
        originals, copies = places(old), places(new)
        if isinstance(old, keras.Model):
            copies = _copies_by_place(originals, copies)
        for place, layer in originals.items():
            if place in copies:
                yield from visit(layer, copies[place])
            elif complete and layer.weights:
                raise InvalidArgumentError(
                    f"Cannot copy layer '{old.name}' of type {type(old).__name__}: "
                    f"its copy has no layer '{layer.name}'.",
                    received=type(layer).__name__,
                    expected="a layer that its constructor or build() makes again",
                    fix="let get_config() say how many layers it has",
                )

    return visit(source, target)


def _copies_by_place(originals: dict[tuple, Any], copies: dict[tuple, Any]) -> dict:
    """Returns the copies of a model's layers by the places of the originals.

    They are known by their names. Those without a name of their own have
    a new one in each model that a layer's constructor makes, and then it is their
    order that tells them apart.
    """
    kinds = [[type(layer) for layer in held.values()] for held in (originals, copies)]
    if originals.keys() != copies.keys() and kinds[0] == kinds[1]:
        return dict(zip(originals, copies.values()))
    return copies


def _own_weights(layer: keras.Layer) -> list:
    inner = {id(v) for part in places(layer).values() for v in part.weights}
    return [variable for variable in layer.weights if id(variable) not in inner]


def _shapes(variables: list) -> str:
    return ", ".join(f"{v.name} {tuple(v.shape)}" for v in variables) or "no weights"


def _saves_itself(layer: Any) -> bool:
    """Returns whether a layer says itself what of it is kept in a file."""
    if hasattr(layer, "save_assets"):
        return True
    return any(
        getattr(type(layer), hook) is not getattr(keras.Layer, hook) for hook in _HOOKS
    )


def _build_as(source: keras.Layer, target: keras.Layer) -> None:
    """Builds a copy as its original was built, as loading a file does."""
    if target.built or not source.built:
        return
    config = source.get_build_config()
    if not config:
        return
    with warnings.catch_warnings():
        # Layers that are built by their first call get their weights there.
        warnings.filterwarnings("ignore", "`build\\(\\)` was called on layer")
        with _explained(source):
            target.build_from_config(config)


def _load_saved(source: Any, target: Any) -> None:
    """Hands on what a layer would write into a file, without one."""
    if source.built and not target.built and source.weights:
        return  # its weights come once it has been called
    with _explained(source):
        store: dict[str, Any] = {}
        source.save_own_variables(store)
        target.load_own_variables(
            {key: _as_array(value) for key, value in store.items()}
        )
        if hasattr(source, "save_assets"):
            with scratch() as folder:
                source.save_assets(folder)
                target.load_assets(folder)


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, keras.Variable) or keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value)
    return np.array(value)


@contextlib.contextmanager
def _explained(layer: keras.Layer) -> Iterator[None]:
    try:
        yield
    except InvalidArgumentError:
        raise
    except Exception as error:
        raise InvalidArgumentError(
            f"Cannot copy the state of layer '{layer.name}' of type "
            f"{type(layer).__name__} ({type(error).__name__}: {one_line(error)}).",
            expected="a layer that a .keras file keeps",
            fix="let build_from_config(), load_own_variables() and load_assets() take "
            "what get_build_config(), save_own_variables() and save_assets() give",
        ) from error


def _not_copied(operation: Any, error: Exception) -> InvalidArgumentError:
    reason = " ".join(str(error).strip().split("\n\n")[0].split())
    return InvalidArgumentError(
        f"Cannot copy layer '{operation.name}' of type "
        f"{type(operation).__name__}: its config does not rebuild it ({reason}).",
        fix="implement get_config() so that cls.from_config(get_config()) works, "
        "and register the class with keras.saving.register_keras_serializable",
    )


@contextlib.contextmanager
def _marked(layers: dict[str, Any]) -> Iterator[None]:
    """Inside, the config of each of `layers` says by its key whose it is."""
    before = {key: vars(layer).get("get_config") for key, layer in layers.items()}
    try:
        for key, layer in layers.items():
            layer.get_config = functools.partial(_with_mark, layer.get_config, key)
        yield
    finally:
        for key, layer in layers.items():
            if before[key] is not None:
                layer.get_config = before[key]
            elif "get_config" in vars(layer):
                del layer.get_config


@contextlib.contextmanager
def _named(operation: Any) -> Iterator[None]:
    """Inside, functions without a name, which no config can hold, have another's."""
    nameless = {
        name: value
        for name, value in vars(operation).items()
        if isinstance(value, functools.partial) and name != "get_config"
    }
    try:
        vars(operation).update(dict.fromkeys(nameless, keras.activations.linear))
        yield
    finally:
        vars(operation).update(nameless)


def _with_mark(get_config: Callable[[], dict], key: str) -> dict:
    try:
        config = get_config()
    except Exception:
        config = {}  # nobody reads it: the layer itself is at hand
    return {**config, _MARK: key}


def _reference(key: str) -> dict:
    return {
        "class_name": _MARK,
        "module": None,
        "registered_name": _MARK,
        "config": {"key": key},
    }


def _with_references(config: Any) -> Any:
    """Returns a config with references in the place of marked layers."""
    if isinstance(config, list | tuple) and type(config) in (list, tuple):
        return type(config)(_with_references(value) for value in config)
    if not isinstance(config, dict):
        return config
    inner = config.get("config")
    if "class_name" in config and isinstance(inner, dict) and _MARK in inner:
        # A model's config has more to say of its layers: their names and inputs.
        said = {
            key: value
            for key, value in config.items()
            if key not in ("build_config", "compile_config", "shared_object_id")
        }
        return {**said, **_reference(inner[_MARK])}
    return {
        key: _with_references(value) for key, value in config.items() if key != _MARK
    }


def _functions(operation: Any, config: dict) -> dict[str, Callable]:
    """Returns the functions of the user's own that entries of a config stand for."""
    functions: dict[str, Callable] = {}
    for key, value in config.items():
        if not isinstance(value, dict | str):
            continue
        for attribute in (key, f"_{key}"):
            function = getattr(operation, attribute, None)
            callables = types.FunctionType | functools.partial
            if isinstance(function, callables) and not _is_of_keras(function):
                functions[key] = function
                break
    return functions


def _is_of_keras(function: Callable) -> bool:
    return function.__module__.split(".")[0] == "keras"
