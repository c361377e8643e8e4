"""How a .mlpackage stores weights: palettes, sparse weights, integers with scales.

Used in the child process, which has coremltools. Each form gives the weight again to
the last bit, but for integers whose scale needs more than the bits of a float.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

# Bytes that a form has to save: operators and the ends of blobs take room themselves.
_LEAST_GAIN = 512
_PALETTE_BITS = (1, 2, 4, 6, 8)
# Products may be off by the last bit of their scale.
_ROUNDING = {"float32": 3e-7, "float16": 2.5e-3}
_BITS = {"float32": "uint32", "float16": "uint16"}
_COMPUTING = frozenset({"conv", "conv_transpose", "linear", "matmul"})


class Form(NamedTuple):
    """One way to store a weight.

    Attributes:
        bytes: what it takes.
        write: adds its operators before another one, by the builder of programs.
        integers: whether it is integers and a scale.
    """

    bytes: float
    write: Callable[[dict[str, Any]], Any]
    integers: bool = False


class Stored(NamedTuple):
    """What a weight was before it was stored, and whether its form is exact."""

    values: np.ndarray
    exact: bool

    def equals(self, found: np.ndarray) -> bool:
        """Returns whether a weight that was read back is what it was.

        Products of integers and scales may be off by the last bit, and a minus zero
        among them is zero.
        """
        values, kind = self.values, self.values.dtype
        if found.shape != values.shape or found.dtype != kind:
            return False
        if self.exact:
            bits = _BITS[kind.name]
            return bool(np.array_equal(found.view(bits), values.view(bits)))
        tolerance = _ROUNDING[kind.name]
        return bool(np.all(np.abs(found - values) <= tolerance * np.abs(values)))


def store_weights(program: Any, grouped: bool) -> dict[str, Stored]:
    """Replaces the weights of a program by their smallest forms.

    In a program that rounds activations, kernels of integers stay integers however
    small they are: operators on integers need them.

    Args:
        program: a program of coremltools; it is changed.
        grouped: whether iOS 18's forms may be used, with 4-bit integers and palettes
            of weights with zeros.

    Returns:
        What each weight was, by the name of its new tensor.
    """
    stored: dict[str, Stored] = {}
    made: dict[tuple, Any] = {}  # each step of a recurrent layer has a copy of kernels
    for function in program.functions.values():
        operators = list(function.operations)
        rounds = any(one.op_type == "quantize" for one in operators)
        with function:  # where the builder writes
            for constant in [one for one in operators if one.op_type == "const"]:
                weight = constant.outputs[0]
                form = _form(weight, grouped, rounds)
                if form is not None:
                    values = weight.val
                    shape = values.dtype.name, values.shape
                    key = (id(function), form[::2], shape, values.tobytes())
                    if key not in made:
                        # What is written into a package has letters and digits alone.
                        clean = re.sub(r"\W", "_", weight.name)
                        name = f"weight_{len(stored)}_{clean}"
                        made[key] = form.write({"before_op": constant, "name": name})
                        stored[made[key].name] = Stored(values, not form.integers)
                    _replace(constant, made[key])
    return stored


def _replace(constant: Any, made: Any) -> None:
    """Puts what a form gives in a constant's place."""
    weight, block = constant.outputs[0], constant.enclosing_block
    block.replace_uses_of_var_after_op(anchor_op=constant, old_var=weight, new_var=made)
    block.remove_ops([constant])


def _form(weight: Any, grouped: bool, rounds: bool) -> Form | None:
    """Returns the smallest form of a weight; None where that is the weight itself."""
    values, readers = weight.val, weight.child_ops
    plain = isinstance(values, np.ndarray) and values.dtype.name in _BITS
    if not plain or not readers or values.ndim == 0:
        return None
    forms = list(_forms(values, grouped))
    kernel = values.ndim > 1 and any(one.op_type in _COMPUTING for one in readers)
    integers = [one for one in forms if one.integers]
    if rounds and kernel and integers:
        return min(integers, key=lambda form: form.bytes)
    best = min(forms, key=lambda form: form.bytes, default=None)
    return best if best and values.nbytes - best.bytes >= _LEAST_GAIN else None


def _forms(values: np.ndarray, grouped: bool) -> Iterator[Form]:
    patterns = values.view(_BITS[values.dtype.name])
    mask = patterns != 0  # minus zero is not zero to a file that is to be the same
    book, places = np.unique(patterns, return_inverse=True)
    codes = places.reshape(values.shape).astype("uint8")
    book = book.view(values.dtype)
    size, kept = values.size, int(mask.sum())
    sparse = 0 < kept < size
    if sparse:
        taken = size / 8 + kept * values.itemsize
        write = _sparse if grouped else _sparse_16
        yield Form(taken, lambda at: write(at, values[mask], mask))
    if len(book) <= 256:
        bits = next(b for b in _PALETTE_BITS if 2**b >= len(book))
        taken = size * bits / 8 + 2**bits * values.itemsize
        palette = _palette if grouped else _palette_16
        yield Form(taken, lambda at: palette(at, codes, book, bits))
    if sparse and grouped and len(book) <= 257:
        others, spots = np.unique(patterns[mask], return_inverse=True)
        bits_kept = next((b for b in _PALETTE_BITS if 2**b >= len(others)), 8)
        taken = size / 8 + kept * bits_kept / 8 + 2**bits_kept * values.itemsize
        entries = others.view(values.dtype)
        yield Form(
            taken,
            lambda at: _sparse_palette(at, mask, spots, entries, bits_kept),
        )
    found = as_integers(values, grouped)
    if found is None:
        return
    integers, scale, width = found
    taken = size * width / 8 + scale.nbytes
    yield Form(
        taken, lambda at: _scaled(at, integers, scale, width, grouped), integers=True
    )
    nonzero = integers != 0
    if grouped and 0 < nonzero.sum() < size and not np.signbit(values[~nonzero]).any():
        taken = size / 8 + nonzero.sum() * width / 8 + scale.nbytes
        yield Form(
            taken,
            lambda at: _sparse_scaled(at, integers, nonzero, scale, width),
            integers=True,
        )


def as_integers(
    values: np.ndarray, four_bits: bool
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Returns integers, their scale and their bits, if the product is the weight.

    The scale is that of the tensor or that of slices along one axis. Minus zero is no
    integer; it becomes zero, which computes the same.
    """
    if values.size < 8 or not np.isfinite(values).all():
        return None
    tolerance = _ROUNDING[values.dtype.name]
    wide = values.astype("float64")
    axes = [None, *range(values.ndim)] if values.ndim > 1 else [None]
    for bits, most in ((4, 7), (8, 127)) if four_bits else ((8, 127),):
        for axis in axes:
            others = tuple(a for a in range(values.ndim) if a != axis)
            peaks = np.abs(wide).max(axis=others, keepdims=True)
            scale = (np.where(peaks > 0, peaks, 1) / most).astype(values.dtype)
            codes = np.round(wide / scale)
            product = codes.astype(values.dtype) * scale
            near = np.abs(product - wide) <= tolerance * np.abs(wide)
            # Slices of one or two values are integers of any scale.
            if near.all() and scale.size * 4 <= values.size:
                return codes.astype("int8"), scale, bits
    return None


def _builder() -> Any:
    from coremltools.converters.mil import Builder

    return Builder


def _small(name: str) -> Any:
    from coremltools.converters.mil.mil import types

    return types.nptype_from_builtin(types.string_to_builtin(name))


def _sparse(at: dict[str, Any], kept: np.ndarray, mask: np.ndarray) -> Any:
    return _builder().constexpr_sparse_to_dense(
        nonzero_data=kept, mask=mask.astype(_small("uint1")), **at
    )


def _sparse_16(at: dict[str, Any], kept: np.ndarray, mask: np.ndarray) -> Any:
    return _builder().constexpr_sparse_to_dense(
        nonzero_data=kept,
        mask=np.packbits(mask.reshape(-1), bitorder="little"),
        shape=np.array(mask.shape, "uint32"),
        **at,
    )


def _book(values: np.ndarray, bits: int) -> np.ndarray:
    """Returns the values of a palette, with zeros to the end of its length."""
    return np.concatenate([values, np.zeros(2**bits - len(values), values.dtype)])


def _palette(
    at: dict[str, Any], codes: np.ndarray, values: np.ndarray, bits: int
) -> Any:
    book = _book(values, bits).reshape((1,) * codes.ndim + (2**bits, 1))
    indices = codes.astype(_small(f"uint{bits}"))
    return _builder().constexpr_lut_to_dense(indices=indices, lut=book, **at)


def _palette_16(
    at: dict[str, Any], codes: np.ndarray, values: np.ndarray, bits: int
) -> Any:
    # Little end first, one after the other, whatever the limits of bytes.
    rows = (codes.reshape(-1, 1) >> np.arange(bits, dtype="uint8")) & 1
    return _builder().constexpr_lut_to_dense(
        indices=np.packbits(rows.reshape(-1), bitorder="little"),
        lut=_book(values, bits),
        shape=np.array(codes.shape, "uint32"),
        **at,
    )


def _sparse_palette(
    at: dict[str, Any],
    mask: np.ndarray,
    places: np.ndarray,
    values: np.ndarray,
    bits: int,
) -> Any:
    build = _builder()
    kept, data = build.constexpr_lut_to_sparse(
        indices_mask=mask.astype(_small("uint1")),
        indices_nonzero_data=places.reshape(-1).astype(_small(f"uint{bits}")),
        lut=_book(values, bits).reshape((1,) * mask.ndim + (2**bits, 1)),
        before_op=at["before_op"],
        name=f"{at['name']}_palette",
    )
    return build.constexpr_sparse_to_dense(nonzero_data=data, mask=kept, **at)


def _scaled(
    at: dict[str, Any], codes: np.ndarray, scale: np.ndarray, bits: int, grouped: bool
) -> Any:
    build = _builder()
    if grouped:
        data = codes.astype(_small("int4")) if bits == 4 else codes
        return build.constexpr_blockwise_shift_scale(data=data, scale=scale, **at)
    (axis,) = [a for a, n in enumerate(scale.shape) if n > 1] or [0]
    one = scale.size == 1
    return build.constexpr_affine_dequantize(
        quantized_data=codes,
        zero_point=np.int8(0),
        scale=scale.reshape(-1)[0] if one else scale.reshape(-1),
        axis=np.int32(axis),
        **at,
    )


def _sparse_scaled(
    at: dict[str, Any],
    codes: np.ndarray,
    mask: np.ndarray,
    scale: np.ndarray,
    bits: int,
) -> Any:
    build = _builder()
    data = codes[mask]
    kept, scaled = build.constexpr_sparse_blockwise_shift_scale(
        data_mask=mask.astype(_small("uint1")),
        nonzero_data=data.astype(_small("int4")) if bits == 4 else data,
        scale=scale,
        before_op=at["before_op"],
        name=f"{at['name']}_scaled",
    )
    return build.constexpr_sparse_to_dense(nonzero_data=scaled, mask=kept, **at)
