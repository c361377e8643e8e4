"""Builds a Keras 3 model from the description of a Keras 2 model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import UnsupportedLayerError, one_line
from tfcompress.core.keras_2 import hard_sigmoid_of_keras_2
from tfcompress.interop.operations import call_operation
from tfcompress.interop.sizes import Sizes

# Arguments of Keras 2 that say nothing any more, whatever their value.
_GONE = frozenset(
    {
        *("batch_input_shape", "time_major", "implementation", "ragged", "sparse"),
        # Where an initializer is not taken, another one is: weights are set anyway.
        *("autocast", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
        # What is known from the inputs, or from the weights.
        *("input_length", "query_shape", "key_shape", "value_shape", "vocabulary_size"),
        *("trainable", "rng_type"),
    }
)
# Arguments of Keras 2 that have another name.
_RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}}
# Activations of Keras 2 that compute something else in Keras 3.
_ACTIVATIONS = {"hard_sigmoid": hard_sigmoid_of_keras_2}


def rebuilt(
    description: dict[str, Any], weights: dict[str, np.ndarray], source: str
) -> tuple[keras.Model, dict[str, Any]]:
    """Returns the model, and what TFMOT's wrappers knew of each quantized layer.

    Args:
        description: what the child process found.
        weights: arrays by layer and position.
        source: what errors call the model.
    """
    quantized = {
        entry["plain_name"]: entry
        for entry in description["layers"]
        if "quantized" in entry
    }
    # Ranges of inputs are those of layers that round and do nothing else.
    for entry in description["layers"]:
        if entry["class_name"] == "QuantizeLayer" and entry["range"]:
            before = entry["calls"][0]["args"]["tensor"][0]
            quantized[before] = {"after": entry["range"], "quantized": True}
    return _Rebuilding(weights, source).model(description, ""), quantized


class _Rebuilding:
    """Makes layers, calls them as they were called, and sets their weights."""

    def __init__(self, weights: dict[str, np.ndarray], source: str):
        self.weights, self.source = weights, source

    def model(self, description: dict[str, Any], prefix: str) -> keras.Model:
        layers: dict[str, Any] = {}
        tensors: dict[tuple[str, int], Any] = {}
        for entry in description["layers"]:
            if entry["class_name"] == "InputLayer":
                tensors[entry["name"], 0] = _input(entry["config"])
            else:
                layers[entry["name"]] = self.layer(entry, prefix)
        if description["class_name"] == "Functional":
            self._call_all(description["layers"], layers, tensors)
        made = self._model(description, layers, tensors)
        for entry in description["layers"]:
            self._set_weights(entry, layers.get(entry["name"]), prefix)
        return made

    def layer(self, entry: dict[str, Any], prefix: str) -> Any:
        """Returns the Keras 3 layer of an entry; None for what is no layer there."""
        if "model" in entry:
            return self.model(entry["model"], f"{prefix}{entry['name']}/")
        if entry["class_name"] == "QuantizeLayer" or "weights" not in entry:
            return None
        kind = getattr(keras.layers, entry["class_name"], None)
        own = entry["module"].split(".")[0] not in ("tf_keras", "keras")
        if kind is None or own:
            raise self._unsupported(
                entry, f"the class {entry['class_name']}", "a layer that Keras 3 has"
            )
        config = self._config(entry, kind)
        try:
            with warnings.catch_warnings():
                # Keras 3 says that it prefers another way to name an input's shape.
                warnings.simplefilter("ignore", UserWarning)
                return kind.from_config(config)
        except Exception as error:
            reason = one_line(error)
            raise self._unsupported(
                entry, reason, "options that Keras 3 has"
            ) from error

    def _config(self, entry: dict[str, Any], kind: type) -> dict[str, Any]:
        """Returns the configuration without what is gone and was not in use."""
        defaults = entry["defaults"]
        config = self._known(
            entry, kind, entry["config"], lambda n, v: v == defaults.get(n, v)
        )
        config["name"] = entry["plain_name"]
        if isinstance(config.get("axis"), list) and len(config["axis"]) == 1:
            (config["axis"],) = config["axis"]  # of BatchNormalization
        if kind is keras.layers.Discretization:
            # That of its output, to which Keras 3 would cast the input.
            config.pop("dtype", None)
        return config

    def _known(
        self, entry: dict, kind: type, given: dict, says_nothing: Callable
    ) -> dict[str, Any]:
        """Returns what Keras 3 takes of a configuration, in its words.

        Args:
            entry: the layer that errors name.
            kind: the class of this layer, or of one that it holds.
            given: the configuration in Keras 2.
            says_nothing: of a name and a value that Keras 3 does not take, whether
                they were not in use.
        """
        known, names = _arguments(kind), _RENAMED.get(kind.__name__, {})
        config = {}
        for name, value in given.items():
            name = names.get(name, name)
            if name in known:
                activates = name.endswith("activation") and isinstance(value, str)
                own = _ACTIVATIONS.get(value) if activates else None
                config[name] = own or self._nested(entry, value)
            elif name not in _GONE and not says_nothing(name, value):
                raise self._unsupported(
                    entry, f"{name}={value!r}", "options that Keras 3 has"
                )
        return config

    def _nested(self, entry: dict, value: Any) -> Any:
        """Returns the configuration of an inner layer, as of Bidirectional or RNN."""
        if isinstance(value, list):
            return [self._nested(entry, one) for one in value]
        if not isinstance(value, dict):
            return value
        kind = getattr(keras.layers, str(value.get("class_name")), None)
        if kind is None or not isinstance(value.get("config"), dict):
            return value
        config = self._known(
            entry,
            kind,
            value["config"],
            lambda name, one: not one or (name, one) == ("groups", 1),
        )
        return {
            "module": "keras.layers",
            "class_name": value["class_name"],
            "config": config,
            "registered_name": None,
        }

    def _call_all(self, entries: list, layers: dict, tensors: dict) -> None:
        # A layer that is called twice may be called again by what comes later. The
        # first call of a model is that of its own inputs.
        waiting = [
            (entry, number, call)
            for entry in entries
            for number, call in enumerate(entry["calls"], "model" in entry)
        ]
        while waiting:
            later = []
            for entry, number, call in waiting:
                if all(key in tensors for key in _reads(call)):
                    tensors[entry["name"], number] = self._called(
                        entry, layers[entry["name"]], call, tensors
                    )
                else:
                    later.append((entry, number, call))
            if len(later) == len(waiting):
                raise self._unsupported(
                    later[0][0], "inputs from nowhere", "layers that reach the inputs"
                )
            waiting = later

    def _called(self, entry: dict, layer: Any, call: dict, tensors: dict) -> Any:
        args, kwargs = _filled((call["args"], call["kwargs"]), tensors)
        if entry["class_name"] == "QuantizeLayer":
            return args
        try:
            if layer is None:
                return call_operation(entry, args, kwargs)
            return layer(args, **kwargs)
        except UnsupportedLayerError:
            raise
        except Exception as error:
            reason = one_line(error)
            raise self._unsupported(
                entry, reason, "a layer that Keras 3 has"
            ) from error

    def _set_weights(self, entry: dict, layer: Any, prefix: str) -> None:
        if layer is None or "weights" not in entry:
            return
        values = [
            self.weights[f"{prefix}{entry['name']}:{position}"]
            for position in range(entry["weights"])
        ]
        try:
            layer.set_weights(values)
        except ValueError as error:
            shapes = [value.shape for value in values]
            raise self._unsupported(
                entry, f"weights {shapes}", f"{[w.shape for w in layer.weights]}"
            ) from error
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # which weights alone do not

    def _model(self, description: dict, layers: dict, tensors: dict) -> keras.Model:
        if description["class_name"] == "Sequential":
            first = tensors[description["inputs"][0][0], 0]
            chain = [layer for layer in layers.values() if layer is not None]
            return keras.Sequential([first, *chain], name=description["name"])
        inputs, outputs = (
            _filled(_references(description[side]), tensors)
            for side in ("inputs", "outputs")
        )
        return keras.Model(_single(inputs), _single(outputs), name=description["name"])

    def _unsupported(self, entry: dict, received: str, expected: str) -> Exception:
        return UnsupportedLayerError(
            f"Layer '{entry['plain_name']}' of Keras 2 has no equal in Keras 3.",
            received=f"{entry['class_name']}: {received}, in {self.source}",
            expected=expected,
            fix="replace the layer in Keras 2, and save the model again",
        )


def _input(config: dict[str, Any]) -> Any:
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    return keras.Input(
        batch_shape=tuple(shape or ()),
        dtype=config.get("dtype") or "float32",
        name=config["name"],
    )


def _arguments(kind: type) -> set[str]:
    """Returns the names of what a layer class takes."""
    found: set[str] = set()
    for base in kind.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        found |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found - {"self", "args", "kwargs"}


def _reads(value: Any) -> list[tuple[str, int]]:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return [(value["tensor"][0], value["tensor"][1])]
        return [key for one in value.values() for key in _reads(one)]
    if isinstance(value, (list, tuple)):
        return [key for one in value for key in _reads(one)]
    return []


def _filled(value: Any, tensors: dict) -> Any:
    """Returns a structure with the tensors that it refers to."""
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            name, number, position = value["tensor"]
            found = tensors[name, number]
            several = isinstance(found, (list, tuple)) and not isinstance(found, Sizes)
            return found[position] if several else found
        return {key: _filled(one, tensors) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(one, tensors) for one in value]
    return value


def _references(value: Any) -> Any:
    """Returns inputs or outputs of a model with its `[layer, call, index]` marked."""
    if isinstance(value, dict):
        return {key: _references(one) for key, one in value.items()}
    if len(value) == 3 and isinstance(value[0], str):
        return {"tensor": value}
    return [_references(one) for one in value]


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
