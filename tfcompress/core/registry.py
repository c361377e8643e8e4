"""Registries: how an open axis (criteria, losses, exporters ...) finds its classes."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import keras

from tfcompress.core.errors import InvalidArgumentError, one_line

PACKAGE = "tfcompress"
T = TypeVar("T")


def _place(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


class Registry(Generic[T]):
    """Names of the classes of one open axis.

    A class registers itself with a decorator and can then be asked for as an
    instance, as a serialized config or, where it has defaults, by name.

    Args:
        kind: what the classes are, in error messages ("pruning criterion").
        base: the class that all of them derive from; None for any.
        example: an instance, for error messages.

    Example:

    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... class Red:
    ...     def get_config(self):
    ...         return {}
    >>> type(colours.get("red")).__name__
    'Red'
    """

    def __init__(self, kind: str, base: type | None = None, example: str | None = None):
        self.kind, self.base, self.example = kind, base or object, example
        self._classes: dict[str, type[T]] = {}
        self._aliases: dict[str, str] = {}
        self._reason_against: Callable[[Any], str] = lambda cls: ""

    @property
    def _one(self) -> str:
        """What one of them is, with its article."""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"

    def part(self, kind: str, reason_against: Callable[[Any], str]) -> "Registry[T]":
        """Returns the registry of those that fit one use, now and once registered.

        Args:
            kind: what they are, in error messages ("criterion for channels").
            reason_against: says of a class why it does not fit; "" for one that does.
        """
        part = copy.copy(self)  # it holds the same dictionaries
        part.kind, part._reason_against = kind, reason_against
        return part

    def register(self, name: str, *aliases: str) -> Callable[[type], type]:
        """Returns a decorator that files a class under `name`, and other names.

        A class that is defined again (in a notebook) takes the place of the first.

        Raises:
            InvalidArgumentError: from the decorator, if another class has the name.
        """

        def decorate(cls: type) -> type:
            for taken in (name, *aliases):
                other = self._classes.get(self._aliases.get(taken, taken))
                if other is not None and _place(other) != _place(cls):
                    raise InvalidArgumentError(
                        f"There is {self._one} of this name already.",
                        received=f"{taken!r} for {_place(cls)}",
                        expected=f"another name; {taken!r} is {_place(other)}",
                    )
            self._classes[name] = cls
            self._aliases.update(dict.fromkeys(aliases, name))
            return keras.saving.register_keras_serializable(package=PACKAGE)(cls)

        return decorate

    def names(self) -> list[str]:
        """Returns the registered names, sorted."""
        known = self._classes.items()
        return sorted(name for name, cls in known if not self._reason_against(cls))

    def spellings(self) -> list[str]:
        """Returns all names that are understood, the other names of a class too."""
        names = self.names()
        return sorted([*names, *(a for a, n in self._aliases.items() if n in names)])

    def class_of(self, name: str) -> type[T]:
        """Returns the class that is registered under `name`.

        Raises:
            InvalidArgumentError: if nothing is, or what does not fit this use.
        """
        cls = self._classes.get(self._aliases.get(name, name))
        reason = self._reason_against(cls) if cls else ""
        if cls is None or reason:
            raise InvalidArgumentError(
                f"Unknown {self.kind}.",
                received=f"{name!r}, which {reason}" if reason else repr(name),
                expected=f"one of {', '.join(map(repr, self.names()))}",
                fix=f"pass one of these names or an instance of {self._one}",
            )
        return cls

    def get(self, identifier: Any) -> T:
        """Returns the instance that `identifier` (name, config, instance) means.

        Raises:
            InvalidArgumentError: if nothing is registered under that name, or it means
                something that is no such thing.
        """
        if isinstance(identifier, str):
            return self.class_of(identifier)()
        if isinstance(identifier, Mapping):
            return self._checked(self._deserialized(identifier))
        if isinstance(identifier, type):
            raise InvalidArgumentError(
                f"Unknown {self.kind}: a class where an instance is needed.",
                received=identifier.__name__,
                expected=f"an instance, `{identifier.__name__}()`",
            )
        return self._checked(identifier)

    def _deserialized(self, config: Mapping) -> Any:
        try:
            return keras.saving.deserialize_keras_object(dict(config))
        except InvalidArgumentError:
            raise
        except Exception as error:  # Keras raises what it meets
            raise InvalidArgumentError(
                f"This is no config of {self._one}.",
                received=f"{dict(config)} ({one_line(error)})",
                expected="what keras.saving.serialize_keras_object returns",
            ) from error

    def _checked(self, instance: Any) -> Any:
        alien = not isinstance(instance, self.base)
        reason = "" if alien else self._reason_against(type(instance))
        if alien or reason:
            raise InvalidArgumentError(
                f"Unknown {self.kind}.",
                received=f"{instance!r} ({reason or type(instance).__name__})",
                expected=f"one of {', '.join(map(repr, self.names()))}, or an instance "
                f"of a subclass of {self.base.__name__}",
                fix=self.example and f"pass one, e.g. {self.example}",
            )
        return instance
