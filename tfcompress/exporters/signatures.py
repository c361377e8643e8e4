"""Several signatures of one file: what a dict that `export` is given means."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.core.errors import CompressionError, InvalidArgumentError
from tfcompress.exporters.tracing import input_names, input_structure
from tfcompress.exporters.training import OnDeviceTraining

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Signature:
    """One of several signatures that are to be exported.

    Attributes:
        name: what it is called by.
        model: the model behind it.
        input_signature: its inputs, as in `export`.
        training: what of it is trained on the device, with signatures of its own.
    """

    name: str
    model: Any
    input_signature: Any = None
    training: OnDeviceTraining | None = None


def signatures_of(model: Any, input_signature: Any) -> list[Signature]:
    """Returns the signatures that `export` is asked for; none for a plain export.

    A dict of models has a signature for each. A dict as `input_signature` has one for
    each key whose value says all inputs of the model; if it is the values together that
    say them, the keys are names of inputs.

    Raises:
        InvalidArgumentError: if names are none, or it cannot be told what is meant.
    """
    if isinstance(model, OnDeviceTraining):
        return [Signature("infer", model.model, input_signature, model)]
    if isinstance(model, Mapping):
        return _of_models(model, input_signature)
    if not isinstance(input_signature, Mapping) or not isinstance(model, keras.Model):
        return []
    if not _are_signatures(model, input_signature):
        return []
    _check_names(input_signature)
    return [
        Signature(key, model, _named(value, model))
        for key, value in input_signature.items()
    ]


@contextlib.contextmanager
def naming(signature: str) -> Iterator[None]:
    """Lets errors within begin with the signature that they are of."""
    try:
        yield
    except CompressionError as error:
        error.args = (f"Signature {signature!r}: {error.args[0]}", *error.args[1:])
        raise


def _of_models(models: Mapping[str, Any], inputs: Any) -> list[Signature]:
    _check_names(models)
    for name, model in models.items():
        if not isinstance(model, keras.Model):
            raise InvalidArgumentError(
                f"Signature {name!r} is no Keras model.",
                received=type(model).__name__,
                expected="a dict from names of signatures to keras.Model",
            )
    if inputs is not None and not (
        isinstance(inputs, Mapping) and set(inputs) <= set(models)
    ):
        raise InvalidArgumentError(
            "`input_signature` of several models is a dict by signature.",
            received=repr(inputs),
            expected=f"a dict with keys out of {', '.join(map(repr, models))}",
        )
    given = inputs or {}
    return [Signature(name, one, given.get(name)) for name, one in models.items()]


def _named(inputs: Any, model: keras.Model) -> Any:
    """Returns inputs with the names of the model's own, where they have none."""
    try:
        names = iter(input_names(model))
    except InvalidArgumentError:
        return inputs  # a model that does not know its inputs

    def named(leaf: Any) -> Any:
        name = next(names)
        if getattr(leaf, "name", None) or getattr(leaf, "shape", None) is None:
            return leaf
        dtype = getattr(leaf, "dtype", None) or "float32"
        dtype = keras.backend.standardize_dtype(getattr(dtype, "name", dtype))
        return keras.KerasTensor(tuple(leaf.shape), dtype, name=name)

    return keras.tree.map_structure(named, inputs)


def _check_names(named: Mapping[Any, Any]) -> None:
    bad = [n for n in named if not isinstance(n, str) or not _NAME.fullmatch(n)]
    if bad or not named:
        raise InvalidArgumentError(
            "A signature has a name that code can call it by.",
            received=", ".join(map(repr, bad)) or "an empty dict",
            expected='letters, digits and "_", beginning with a letter',
        )
    folded = [name.lower() for name in named]
    if len(set(folded)) < len(folded):
        raise InvalidArgumentError(
            "Two signatures differ in large and small letters only.",
            received=", ".join(map(repr, named)),
            expected="names that differ",
        )


def _are_signatures(model: keras.Model, given: Mapping[Any, Any]) -> bool:
    """Returns whether the keys name signatures, and not inputs."""
    counts = {key: len(keras.tree.flatten(value)) for key, value in given.items()}
    try:
        inputs = keras.tree.flatten(input_structure(model, None))
        names = set(input_names(model))
    except InvalidArgumentError:
        # A model that does not know its inputs: what is wrapped says all of them.
        wrapped = [isinstance(value, (list, tuple)) for value in given.values()]
        return len(given) > 1 and all(wrapped)
    each = len(given) > 1 and all(count == len(inputs) for count in counts.values())
    if each and names.intersection(given):
        raise InvalidArgumentError(
            "It cannot be told whether these are names of inputs or of signatures.",
            received=f"the keys {', '.join(map(repr, given))}, where the model has "
            f"inputs {', '.join(map(repr, sorted(names)))}",
            expected="names of signatures that no input has, or all inputs by name",
            fix="call the signatures otherwise, or pass inputs as a list of this dict",
        )
    if (
        not each
        and not names.intersection(given)
        and sum(counts.values()) > len(inputs)
    ):
        raise InvalidArgumentError(
            "Each signature says all inputs of the model.",
            received=", ".join(f"{key!r} with {n}" for key, n in counts.items()),
            expected=f"{len(inputs)} for each: {', '.join(sorted(names))}",
        )
    return each
