"""Registries: how an open axis (criteria, losses, exporters ...) finds its classes."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import keras

from tfcompress.core.errors import InvalidArgumentError

PACKAGE = "tfcompress"
T = TypeVar("T")


class Registry(Generic[T]):
    """Names of the classes of one open axis.

    A class registers itself with a decorator and can then be asked for as an
    instance, as a serialized config or, where it has defaults, by name.

    Args:
        kind: what the classes are, in error messages ("pruning criterion").

    Example:

    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... class Red:
    ...     def get_config(self):
    ...         return {}
    >>> type(colours.get("red")).__name__
    'Red'
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """Returns a decorator that files a class under `name`."""

        def decorate(cls: type) -> type:
            self._classes[name] = cls
            return keras.saving.register_keras_serializable(package=PACKAGE)(cls)

        return decorate

    def names(self) -> list[str]:
        """Returns the registered names, sorted."""
        return sorted(self._classes)

    def class_of(self, name: str) -> Callable[..., T]:
        """Returns the class that is registered under `name`.

        Raises:
            InvalidArgumentError: if nothing is.
        """
        if name not in self._classes:
            raise InvalidArgumentError(
                f"Unknown {self.kind}.",
                received=repr(name),
                expected=f"one of {', '.join(map(repr, self.names()))}",
                fix=f"pass one of these names or an instance of a {self.kind}",
            )
        return self._classes[name]

    def get(self, identifier: Any) -> T:
        """Returns the instance that `identifier` (name, config, instance) means.

        Raises:
            InvalidArgumentError: if nothing is registered under that name.
        """
        if isinstance(identifier, str):
            return self.class_of(identifier)()
        if isinstance(identifier, Mapping):
            return keras.saving.deserialize_keras_object(dict(identifier))
        if isinstance(identifier, type):
            raise InvalidArgumentError(
                f"Received a class where a {self.kind} instance is needed.",
                received=identifier.__name__,
                expected=f"an instance, `{identifier.__name__}()`",
            )
        return identifier
