"""Schemes: how many bits weights and activations get."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

from tfcompress.core.arguments import one_of, pattern
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.quantization.quantizers import (
    QUANTIZERS,
    BinaryQuantizer,
    BlockwiseQuantizer,
    LearnedStepQuantizer,
    Quantizer,
    TernaryQuantizer,
    UniformQuantizer,
)
from tfcompress.quantization.quantizers.blockwise import BLOCK_SIZES

_RANGES = ("moving_average", "learned")


@dataclasses.dataclass(frozen=True)
class QuantizationScheme:
    """Number formats of weights and activations.

    When to use: where a name such as `"w8a8"` does not say enough. The names are:

    | name | weights | activations |
    |---|---|---|
    | `"w8a8"` | 8 bits, `UniformQuantizer(8)` | 8 bits |
    | `"w8a16"` | 8 bits, `UniformQuantizer(8)` | 16 bits |
    | `"w4a8"` | 4 bits, `LearnedStepQuantizer(4)` | 8 bits |
    | `"w2a8"` | 2 bits, `TernaryQuantizer()` | 8 bits |
    | `"w1a8"` | 1 bit, `BinaryQuantizer()` | 8 bits |
    | `"w8"` | 8 bits, `UniformQuantizer(8)` | float |
    | `"w4"` | 4 bits, `LearnedStepQuantizer(4)` | float |
    | `"w4b32"` to `"w4b256"` | 4 bits, `BlockwiseQuantizer(32)` to `(256)` | float |

    Args:
        weights: quantizer of kernels: an instance, a config or a name.
        activations: bits of activations, 8 or 16; None leaves them floats
            (weight-only, docs/quantization.md).
        ranges: how ranges of activations are found: `"moving_average"` of what the
            batches hold (Jacob et al., 2018), or `"learned"`: clipping values that
            the optimizer trains with the weights (PACT, Choi et al., 2018). The
            latter cuts off rare large values where that helps the loss.

    Example:

    >>> QuantizationScheme(UniformQuantizer(8, "tensor")).activations
    8
    """

    weights: Quantizer = dataclasses.field(default_factory=UniformQuantizer)
    activations: int | None = 8
    ranges: str = "moving_average"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", QUANTIZERS.get(self.weights))
        widths = (8, 16, None)
        one_of(self.activations, "`activations` is a number of bits.", widths)
        one_of(
            self.ranges, "`ranges` names how ranges of activations are found.", _RANGES
        )


Scheme = str | QuantizationScheme | Mapping[str, str | QuantizationScheme]

_SCHEMES: dict[str, tuple[Callable[[], Quantizer], int | None]] = {
    "w8a8": (UniformQuantizer, 8),
    "w8a16": (UniformQuantizer, 16),
    "w4a8": (LearnedStepQuantizer, 8),
    "w2a8": (TernaryQuantizer, 8),
    "w1a8": (BinaryQuantizer, 8),
    "w8": (UniformQuantizer, None),
    "w4": (LearnedStepQuantizer, None),
    **{
        f"w4b{size}": (functools.partial(BlockwiseQuantizer, size), None)
        for size in BLOCK_SIZES
    },
}


# A name that people know from elsewhere, and those that may mean something else.
_SPELLINGS = {"int8": "w8a8"}
_NEAR = {
    **dict.fromkeys(("int4", "4bit"), "4 bits are 'w4a8'"),
    **dict.fromkeys(("int16", "16x8", "int16x8"), "activations of 16 bits are 'w8a16'"),
    **dict.fromkeys(("8bit",), "8 bits are 'w8a8'"),
    **dict.fromkeys(("ternary", "int2", "w2"), "values of two bits are 'w2a8'"),
    **dict.fromkeys(("binary", "int1", "w1"), "values of one bit are 'w1a8'"),
    **dict.fromkeys(
        ("float16", "fp16", "bfloat16", "bf16", "half"),
        "floats of 16 bits are a form of the file: export(..., quantize='float16')",
    ),
}


def get_scheme(identifier: str | QuantizationScheme) -> QuantizationScheme:
    """Returns the scheme that a name or instance means."""
    if isinstance(identifier, QuantizationScheme):
        return identifier
    name = _SPELLINGS.get(identifier, identifier) if isinstance(identifier, str) else ""
    if name in _SCHEMES:
        quantizer, activations = _SCHEMES[name]
        return QuantizationScheme(quantizer(), activations)
    raise InvalidArgumentError(
        "Unknown quantization scheme.",
        received=repr(identifier),
        expected=f"one of {', '.join(map(repr, _SCHEMES))}, a QuantizationScheme, or "
        "a dict of regular expressions to these",
        fix=_NEAR.get(name),
    )


def needs_data(identifier: str | QuantizationScheme) -> bool:
    """Returns whether a scheme rounds activations, whose ranges data give.

    >>> needs_data("w8a8"), needs_data("w4b32")
    (True, False)
    """
    return get_scheme(identifier).activations is not None


def schemes_by_path(
    scheme: Scheme, paths: list[str]
) -> tuple[QuantizationScheme, Callable[[str], QuantizationScheme]]:
    """Returns the scheme of the model, and a function from a layer's path to its own.

    Args:
        scheme: one for all, or a dict whose first regular expression that is found
            in a layer's path counts; layers that match none get 8 bits.
        paths: the paths of the layers that are there.

    Raises:
        InvalidArgumentError: for expressions that are invalid or match no layer.
    """
    if not isinstance(scheme, Mapping):
        one = get_scheme(scheme)
        return one, lambda path: one
    table = {key: get_scheme(value) for key, value in scheme.items()}
    for key in table:
        wanted = pattern(key, "`scheme` has no valid regular expression")
        if not any(wanted.search(path) for path in paths):
            raise InvalidArgumentError(
                "`scheme` names layers that the model does not have.",
                received=repr(key),
                expected=f"expressions that match some of {', '.join(paths)}",
            )
    kinds = {(one.activations, one.ranges) for one in table.values()}
    if len(kinds) > 1:
        ordered = sorted(kinds, key=lambda kind: (kind[0] or 0, kind[1]))
        listed = ", ".join(_said(*kind) for kind in ordered)
        raise InvalidArgumentError(
            "Layers of one model share their activations, so these have one width "
            "and one kind of ranges.",
            received=f"schemes with activations of {listed}",
            expected="the same for all layers",
        )
    bits, ranges = kinds.pop() if kinds else (8, _RANGES[0])
    rest = QuantizationScheme(activations=bits, ranges=ranges)

    def of(path: str) -> QuantizationScheme:
        fits = (value for key, value in table.items() if re.search(key, path))
        return next(fits, rest)

    return rest, of


def _said(bits: int | None, ranges: str) -> str:
    return "floats" if bits is None else f"{bits} bits ({ranges})"


def owner_path(name: str, paths: Mapping[str, str]) -> str:
    """Returns the path of the layer that a layer of the expanded graph is part of.

    Args:
        name: name of the layer or part; parts begin with the name of their owner.
        paths: paths of the model's layers by name.

    Example:

    >>> owner_path("sep_1_depthwise", {"sep": "block/sep", "sep_1": "block/sep_1"})
    'block/sep_1'
    """
    owners = [known for known in paths if name.startswith(known)]
    return paths[max(owners, key=len)] if owners else name
