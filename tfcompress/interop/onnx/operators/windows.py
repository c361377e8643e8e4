"""Windows of convolutions and pooling: sizes, strides, and what is added around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import layers

from tfcompress.interop.onnx.call import Call
from tfcompress.interop.onnx.refusing import Refused

_PADDING = {1: layers.ZeroPadding1D, 2: layers.ZeroPadding2D, 3: layers.ZeroPadding3D}


@dataclass(frozen=True)
class Windows:
    """How windows lie on the axes of space.

    Attributes:
        kernel: their sizes.
        strides: their distances.
        dilations: the distances within them.
        before: what is added in front on each axis.
        after: what is added behind, with what windows of `ceil_mode` reach.
        sizes: of the output.
        is_same: whether that is what TensorFlow calls "same".
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    sizes: tuple[int, ...]
    is_same: bool

    @property
    def rank(self) -> int:
        """How many axes of space there are."""
        return len(self.kernel)

    @property
    def around(self) -> Any:
        """What is added, as Keras wants to be told."""
        pairs = tuple(zip(self.before, self.after))
        return pairs[0] if self.rank == 1 else pairs

    @property
    def adds(self) -> bool:
        """Whether anything is added."""
        return max(*self.before, *self.after) > 0


def windows_of(
    call: Call,
    space: tuple[int, ...],
    kernel: tuple[int, ...],
    transposed: bool = False,
) -> Windows:
    """Returns the windows of a node on an input whose axes of space are known."""
    rank = len(space)
    strides = tuple(call.attribute("strides", (1,) * rank))
    dilations = tuple(call.attribute("dilations", (1,) * rank))
    pads = tuple(call.attribute("pads", (0,) * 2 * rank))
    how = call.attribute("auto_pad", "NOTSET")
    if {len(kernel), len(strides), len(dilations), len(pads) / 2} != {rank}:
        raise Refused(f"options of other lengths than {rank}", f"{rank} axes of space")
    if min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
        raise Refused(
            f"strides {strides}, dilations {dilations}, pads {pads}", "positive numbers"
        )
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel)]
    if transposed:
        more = call.attribute("output_padding", (0,) * rank)
        if how not in ("NOTSET", "VALID") or "output_shape" in call.node.attributes:
            raise Refused(f"auto_pad {how}, or an output_shape", "pads")
        before, after = pads[:rank], pads[rank:]
        sizes = [
            (n - 1) * s + r + m - b - a
            for n, s, r, m, b, a in zip(space, strides, reach, more, before, after)
        ]
        return Windows(
            tuple(kernel), strides, dilations, before, after, tuple(sizes), False
        )
    ceil = bool(call.attribute("ceil_mode", 0))
    found = [
        _axis(n, s, r, (pads[i], pads[rank + i]), how, ceil)
        for i, (n, s, r) in enumerate(zip(space, strides, reach))
    ]
    before, after, counts = zip(*found)
    if min(counts) < 1:
        raise Refused(f"windows larger than {space}", "windows that fit")
    same = _same(space, strides, reach, before, after, counts)
    return Windows(tuple(kernel), strides, dilations, before, after, counts, same)


def padded(call: Call, tensor: Any, windows: Windows) -> Any:
    """Returns the tensor with zeros around it, where "same" would add others."""
    if windows.is_same or not windows.adds:
        return tensor
    return call.layer(_PADDING[windows.rank], tensor, "_pad", padding=windows.around)


def _axis(
    size: int, stride: int, reach: int, pads: tuple[int, int], how: str, ceil: bool
) -> tuple[int, int, int]:
    """Returns what is added before and behind, and the size of the output."""
    if how in ("SAME_UPPER", "SAME_LOWER"):
        count = -(-size // stride)
        total = max((count - 1) * stride + reach - size, 0)
        less, more = total // 2, total - total // 2
        return (less, more, count) if how == "SAME_UPPER" else (more, less, count)
    before, after = (0, 0) if how == "VALID" else pads
    free = size + before + after - reach
    count = free // stride + 1
    # One more window, if it begins on the tensor or in front of it.
    if ceil and free % stride and count * stride < size + before:
        count += 1
    return before, max((count - 1) * stride + reach - size - before, 0), count


def _same(
    space: Any, strides: Any, reach: Any, before: Any, after: Any, sizes: Any
) -> bool:
    """Returns whether TensorFlow's "same" adds as much on each side."""
    if max(*before, *after) == 0:
        return False
    wanted = [
        _axis(n, s, r, (0, 0), "SAME_UPPER", False)
        for n, s, r in zip(space, strides, reach)
    ]
    return wanted == [*zip(before, after, sizes)]
