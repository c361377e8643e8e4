"""Blockwise weights: one learned step for each block of inputs of a channel."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from tfcompress.core.arguments import one_of
from tfcompress.quantization.quantizers.base import QUANTIZERS, straight_through
from tfcompress.quantization.quantizers.learned_step import LearnedStepQuantizer

# Those that LiteRT's kernels take.
BLOCK_SIZES = (32, 64, 128, 256)
# The least number above zero that float16 has: a step of zero would divide by it.
_SMALLEST = 2.0**-24


@QUANTIZERS.register("blockwise")
class BlockwiseQuantizer(LearnedStepQuantizer):
    """Rounds weights to 15 values, with one step for each block of a channel's inputs.

    When to use: for 4 bits a weight in the matrices of transformers (`"w4b32"` to
    `"w4b256"`), whose channels have many inputs and a few large weights: a large weight
    makes the step of its own block coarse and no other.

    Source: Dettmers and Zettlemoyer, "The case for 4-bit precision", 2023. Of each
    channel, `block_size` weights in a row share a step `s`:
    `q(w) = s * round(clip(w / s, -7, 7))`. Steps are numbers of 16 bits, as LiteRT
    stores them, and are trained as those of `LearnedStepQuantizer` are. A block costs
    `4 + 16 / block_size` bits a weight.

    Args:
        block_size: how many inputs share a step: 32, 64, 128 or 256. It must divide the
            number of inputs.

    Example:

    >>> quantizer = BlockwiseQuantizer(32)
    >>> weights = ops.concatenate([ops.ones((32, 1)), ops.ones((32, 1)) / 100])
    >>> states = {"step": ops.array([[0.25], [0.0025]])}
    >>> rounded = quantizer(weights, (0,), **states).numpy().ravel()
    >>> [float(rounded[0]), round(float(rounded[32]), 4)]
    [1.0, 0.01]
    """

    def __init__(self, block_size: int = 32):
        super().__init__(4)
        one_of(block_size, "Unknown `block_size`.", BLOCK_SIZES)
        self.block_size = block_size

    def get_config(self) -> dict[str, Any]:
        return {"block_size": self.block_size}

    def blocks_of(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
        """Returns how many blocks a channel of a kernel has; 0 if they do not fit."""
        size = math.prod(shape[axis] for axis in axes)
        return 0 if size % self.block_size else size // self.block_size

    def states(self, weights: Any, axes: tuple[int, ...]) -> dict[str, Any]:
        found = super().states(self._in_blocks(weights, axes), (1,))
        return {"step": stored_step(ops.squeeze(found["step"], 1))}

    def __call__(self, weights: Any, axes: tuple[int, ...], **states: Any) -> Any:
        weights = ops.convert_to_tensor(weights)
        blocks = self._in_blocks(weights, axes)
        step = (states or self.states(weights, axes))["step"]
        step = ops.expand_dims(ops.convert_to_tensor(step), 1)
        step = self.trained_step(step, self._size(weights.shape, axes))
        step = straight_through(step, stored_step(ops.abs(step)))
        steps = ops.clip(blocks / step, -self.levels, self.levels)
        rounded = straight_through(steps, ops.round(steps)) * step
        order = _front(axes, len(weights.shape))
        moved = [weights.shape[axis] for axis in order]
        back = sorted(range(len(order)), key=order.__getitem__)
        return ops.transpose(ops.reshape(rounded, moved), back)

    def grid(self, weights: Any, axes: tuple[int, ...], **states: Any) -> None:
        return None  # there is a step for each block, and none for a channel

    def _size(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
        """Returns how many weights share a step; all of a channel if blocks do not fit.

        Layers whose inputs blocks do not divide are refused before they come here.
        """
        whole = math.prod(shape[axis] for axis in axes)
        return self.block_size if self.blocks_of(shape, axes) else whole

    def _in_blocks(self, weights: Any, axes: tuple[int, ...]) -> Any:
        """Returns a kernel as (blocks, inputs of a block, channels)."""
        weights = ops.convert_to_tensor(weights)
        moved = ops.transpose(weights, _front(axes, len(weights.shape)))
        inputs = math.prod(weights.shape[axis] for axis in axes)
        size = self._size(weights.shape, axes)
        channels = math.prod(weights.shape) // inputs
        return ops.reshape(moved, (inputs // size, size, channels))


def stored_step(step: Any) -> Any:
    """Returns steps as files store them: of 8 significant bits, in float16's range.

    XNNPACK reads float16 and computes with bfloat16: what both have is exact in both.

    >>> float(stored_step(ops.array(0.1)))
    0.10009765625
    """
    half = ops.cast(ops.cast(ops.abs(step), "bfloat16"), "float16")
    return ops.maximum(ops.cast(half, "float32"), _SMALLEST)


def _front(axes: tuple[int, ...], rank: int) -> list[int]:
    return [*axes, *(axis for axis in range(rank) if axis not in axes)]
