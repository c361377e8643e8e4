"""BRECQ with QDrop: blocks of layers learn together how they are rounded."""

from __future__ import annotations

from tfcompress.core.graph import Graph
from tfcompress.quantization.calibration.reconstruction.blocks import Block, regions
from tfcompress.quantization.calibration.reconstruction.reconstruct import learns
from tfcompress.quantization.calibration.roundings.adaround import AdaRound
from tfcompress.quantization.calibration.roundings.base import ROUNDINGS


@ROUNDINGS.register("brecq")
class BRECQ(AdaRound):
    """Learns, block by block, which weights are rounded up and which down.

    When to use: as `AdaRound`, for models with residual blocks, attention or other
    branches, whose layers can make up for each other's errors.

    Source: Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block
    Reconstruction", 2021: the loss of AdaRound is that of the outputs of a block, the
    part of a graph between two tensors through which everything flows. The ranges of
    the activations inside learn as well. As in Wei et al., "QDrop", 2022, each number
    of an activation stays in float with a probability of one half in each step, and
    what flows in is mixed from both networks in the same way.

    Args: those of `AdaRound`.

    Example:

    >>> BRECQ(steps=500)
    BRECQ(steps=500)
    """

    drop = 0.5
    learn_ranges = True

    def blocks(self, graph: Graph) -> list[Block]:
        return regions(graph, learns)
