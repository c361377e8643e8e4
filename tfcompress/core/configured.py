"""Objects that are described by the arguments they were made with."""

from __future__ import annotations

import inspect
from typing import Any

import keras

_PACKED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Configured:
    """An object that keeps each argument of its `__init__` as an attribute of its name.

    A subclass that keeps something else writes a `get_config` of its own, as for Keras,
    and may add to that of its base.
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal object, for `keras.saving`."""
        # Where a subclass has a `get_config` of its own, this one is its base's.
        owner = next(
            cls
            for cls in type(self).__mro__
            if getattr(cls, "get_config", None) is Configured.get_config
        )
        return {
            name: _plain(getattr(self, name))
            for name in _arguments(owner)
            if hasattr(self, name)
        }

    def __repr__(self) -> str:
        return described(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Returns the object that was made with these arguments."""
        return cls(**config)


def described(instance: Any) -> str:
    """Returns the call that makes an object, without arguments that are the defaults.

    Args:
        instance: an object that keeps each argument of its `__init__` as an attribute.

    Example:

    >>> class Blur(Configured):
    ...     def __init__(self, width, strength=1.0):
    ...         self.width, self.strength = width, strength
    >>> Blur(3), Blur(3, strength=2.0)
    (Blur(width=3), Blur(width=3, strength=2.0))
    """
    shown = []
    for name, default in _arguments(type(instance)).items():
        value = getattr(instance, name, default)
        same = isinstance(value, int | float | str) and value == default
        if value is not default and not same:
            shown.append(f"{name}={value!r}")
    return f"{type(instance).__name__}({', '.join(shown)})"


def _arguments(kind: type) -> dict[str, Any]:
    """Returns the arguments that make an object by their defaults, of bases behind."""
    names: dict[str, Any] = {}
    for cls in kind.__mro__:
        if "__init__" in vars(cls):
            _, *parameters = inspect.signature(
                vars(cls)["__init__"]
            ).parameters.values()
            named = {p.name: p.default for p in parameters if p.kind not in _PACKED}
            names = {**names, **{n: d for n, d in named.items() if n not in names}}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break  # nothing is handed on to the next class
    return names


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return keras.saving.serialize_keras_object(value)
