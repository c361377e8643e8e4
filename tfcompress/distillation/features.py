"""What named layers of a model output, recorded while the model runs once."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import walk

# A context variable belongs to one thread, so the replicas of a MirroredStrategy,
# which are traced in threads of their own, cannot see each other's tensors.
_RECORD: contextvars.ContextVar[dict[int, Any] | None] = contextvars.ContextVar(
    "tfcompress_features", default=None
)


def find_layer(model: keras.Layer, name: str) -> keras.Layer:
    """Returns the layer of `model` with the path or the name `name`.

    Args:
        model: any Keras model: Functional, Sequential, nested or subclassed.
        name: the layer's path as in `tfcompress.core.select.walk`
            ("backbone/conv1"), or its name alone where only one layer has it.

    Raises:
        InvalidArgumentError: if no layer or several layers are meant.
    """
    layers = list(walk(model))
    found = [(path, layer) for path, layer in layers if path == name]
    # A wrapper and the layer in it share a path: the wrapper comes first.
    found = found[:1] or [(p, layer) for p, layer in layers if layer.name == name]
    if len(found) == 1:
        return found[0][1]
    described = f"{name!r} in model '{model.name}'"
    if found:
        raise InvalidArgumentError(
            "Several layers have this name.",
            received=described,
            expected="one of the paths " + ", ".join(path for path, _ in found),
        )
    raise InvalidArgumentError(
        "There is no layer with this name.",
        received=described,
        expected="one of " + (", ".join(path for path, _ in layers) or "(no layers)"),
    )


class Recorder:
    """Runs a model and keeps what some of its layers output on the way.

    The layers' `call` is wrapped while the model runs and put back afterwards, so
    the model runs once, as itself, whatever kind of model it is, and is left as
    it was found. Of a layer that is called several times the last output counts.

    Args:
        model: the model to run.
        names: names or paths of the layers to record.
    """

    def __init__(self, model: keras.Layer, names: Iterable[str]):
        self._model = model
        self._layers = {name: find_layer(model, name) for name in names}
        self._lock = threading.Lock()
        self._running = 0

    def run(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the model's outputs and `{name: output}` of the named layers."""
        if not self._layers:
            return self._model(*args, **kwargs), {}
        record: dict[int, Any] = {}
        token = _RECORD.set(record)
        try:
            with self._recording():
                outputs = self._model(*args, **kwargs)
        finally:
            _RECORD.reset(token)
        for name, layer in self._layers.items():
            if id(layer) not in record:
                raise InvalidArgumentError(
                    "A layer whose output is needed did not run.",
                    received=f"layer {name!r} in model '{self._model.name}'",
                    expected="a layer that is called in every forward pass",
                )
        return outputs, {n: record[id(layer)] for n, layer in self._layers.items()}

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            if self._running == 1:
                for layer in self._layers.values():
                    _wrap(layer)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    for layer in self._layers.values():
                        layer.__dict__.pop("call", None)


def names_in(loss: Any, attribute: str) -> list[str]:
    """Returns the layer names that a loss has in `attribute`."""
    return [n for n in keras.tree.flatten(getattr(loss, attribute, None)) if n]


def layer_names(losses: list[Any], attribute: str) -> list[str]:
    """Returns the layer names of all losses, each once."""
    # A dict keeps the order and drops what several losses ask for.
    return list(dict.fromkeys(n for loss in losses for n in names_in(loss, attribute)))


def pick(loss: Any, attribute: str, outputs: Any, features: dict[str, Any]) -> Any:
    """Returns what a loss compares: the features it names, or the outputs."""
    if not names_in(loss, attribute):
        return outputs
    missing = [name for name in names_in(loss, attribute) if name not in features]
    if missing:
        raise InvalidArgumentError(
            "The teacher's cache has no features of layers that a loss compares.",
            received=f"layers {sorted(features)} in the cache",
            expected=f"layers {missing} too",
            fix="pass their names as `layers` to cache_teacher, with another path",
        )
    return keras.tree.map_structure(features.get, getattr(loss, attribute))


def _wrap(layer: keras.Layer) -> None:
    original = layer.call

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        record = _RECORD.get()
        if record is not None:
            record[id(layer)] = outputs
        return outputs

    layer.__dict__["call"] = call
