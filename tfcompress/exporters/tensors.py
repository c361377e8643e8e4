"""What is said of an artifact's inputs, outputs and operators."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfcompress.core.errors import InvalidArgumentError


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of an artifact.

    Use it to see how an artifact wants to be called: `artifact.inputs[0].shape`.

    Args:
        name: the name in the artifact's signature.
        shape: one entry per axis; None where the artifact takes any size.
        dtype: "float32", "int8" ...
        scale: real value of one quantization step; None for unquantized tensors.
        zero_point: the integer that stands for 0.0; None for unquantized tensors.
        step: real value of one quantization step, also for a float output that is
            turned back from integers; None where nothing is quantized.

    Example:

    >>> TensorInfo("image", (1, 28, 28, 1), "int8", 0.5, -128).quantized
    True
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    step: float | None = None

    @property
    def quantized(self) -> bool:
        """Whether the tensor is stored as integers with a scale."""
        return self.scale is not None


@dataclass(frozen=True)
class SignatureInfo:
    """One of several signatures of an artifact: what it takes and gives.

    Use it to see what a file of several signatures can do: `artifact.signatures`.

    Args:
        name: what `load(path, signature=name)` calls it.
        inputs: the tensors it takes, in the order a list of arrays is read.
        outputs: the tensors it gives.

    Example:

    >>> SignatureInfo("short", (TensorInfo("x", (1, 8), "float32"),), ()).name
    'short'
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class OperatorCount:
    """How often an artifact uses one operator with one number format.

    Args:
        name: the operator, "CONV_2D".
        activations: dtypes of the tensors it reads and writes at run time.
        weights: dtypes of the constants it reads.
        count: number of such operators.
    """

    name: str
    activations: tuple[str, ...]
    weights: tuple[str, ...]
    count: int


def known_signature(name: Any, known: Sequence[str], where: str) -> str:
    """Returns the name of a signature, if it is one of those that are known.

    Raises:
        InvalidArgumentError: with the names that are most like it, if it is not.
    """
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    listed = ", ".join(map(repr, near or known))
    raise InvalidArgumentError(
        f"{where} has no signature of this name.",
        received=repr(name),
        expected=listed or "nothing: it has only one, without a name of its own",
        fix=None if known else "leave `signature` out",
    )
