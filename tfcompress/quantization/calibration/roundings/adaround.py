"""AdaRound: each layer learns which of its weights go up and which down."""

from __future__ import annotations

from tfcompress.core.arguments import integer, number
from tfcompress.core.graph import Graph
from tfcompress.quantization.calibration.reconstruction.blocks import (
    Block,
    single_layers,
)
from tfcompress.quantization.calibration.reconstruction.learning import Settings
from tfcompress.quantization.calibration.reconstruction.reconstruct import (
    learns,
    reconstruct,
    weights_of,
)
from tfcompress.quantization.calibration.roundings.adaptive import Adaptive
from tfcompress.quantization.calibration.roundings.base import ROUNDINGS, Rounding
from tfcompress.quantization.calibration.task import Calibration


@ROUNDINGS.register("adaround")
class AdaRound(Rounding):
    """Learns, layer by layer, which weights are rounded up and which down.

    When to use: for kernels of 4 bits and fewer, where there are minutes for the
    calibration but no labels or no time for training.

    Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training
    Quantization", 2020. With `W = s * clip(floor(w / s) + h(V), -n, n)` and the
    rectified sigmoid `h`, Adam minimizes
    `|f(w x) - f(W x~)|^2 + decision * mean(1 - |2 h(V) - 1|^b)`: `f` is the activation
    function, `x` flows in the float network and `x~` in the rounded one, and `b` falls
    from 20 to 2 after a fifth of the steps, in which the second term is left out. The
    first term is in units of what rounding to the nearest value makes of it. Biases
    learn with it where `correct_bias` lets them.

    A layer begins as `"adaptive"` rounds it, and stays so unless its error on an
    eighth of the samples, which nothing is learned from, becomes less.

    Args:
        steps: steps of Adam for each layer, >= 1.
        batch_size: samples of a step, >= 1.
        learning_rate: of Adam, > 0.
        decision: weight of the term that pushes weights to one of their two integers,
            >= 0.
        learn_steps: whether the step of each channel learns, too (Jeon et al.,
            "GENIE", 2023).
        seed: of what is drawn.
        directory: where layers that are done are kept. A run that was killed goes on
            from there when it is called again with the same arguments, and ends with
            the same bits.

    Example:

    >>> AdaRound(steps=500)
    AdaRound(steps=500)
    """

    drop = 0.0
    learn_ranges = False

    def __init__(
        self,
        steps: int = 1000,
        batch_size: int = 32,
        *,
        learning_rate: float = 1e-2,
        decision: float = 100.0,
        learn_steps: bool = True,
        seed: int = 0,
        directory: str | None = None,
    ):
        kind = type(self).__name__
        self.steps = integer(steps, f"Bad `steps` of {kind}.", low=1)
        self.batch_size = integer(batch_size, f"Bad `batch_size` of {kind}.", low=1)
        problem = f"Bad `learning_rate` of {kind}."
        self.learning_rate = number(learning_rate, problem, "(0, inf)")
        self.decision = number(decision, f"Bad `decision` of {kind}.", "[0, inf)")
        self.learn_steps = bool(learn_steps)
        self.seed = integer(seed, f"Bad `seed` of {kind}.", 0, 2**31 - 1)
        self.directory = None if directory is None else str(directory)

    def blocks(self, graph: Graph) -> list[Block]:
        """Returns the parts of a graph that learn one after the other."""
        return single_layers(graph, learns)

    def units(self, task: Calibration) -> int:
        return Adaptive().units(task) + len(self.blocks(task.graph))

    def apply(self, task: Calibration) -> None:
        weights = weights_of(task.model)
        Adaptive().apply(task)
        settings = Settings(
            steps=self.steps,
            batch=self.batch_size,
            rate=self.learning_rate,
            decision=self.decision,
            drop=self.drop,
            learn_ranges=self.learn_ranges,
            learn_steps=self.learn_steps,
            biased=bool(task.means),
            seed=self.seed,
        )
        blocks = self.blocks(task.graph)
        reconstruct(task, weights, blocks, settings, self.directory)
