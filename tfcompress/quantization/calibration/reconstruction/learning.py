"""The learning of one block: gradients of the difference between its outputs."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.execution import Execution, Keeping
from tfcompress.core.graph import Graph, Node
from tfcompress.quantization.calibration.reconstruction.blocks import Block
from tfcompress.quantization.calibration.reconstruction.parts import (
    LearnedLayer,
    LearnedRange,
    Weights,
    range_learns,
)
from tfcompress.quantization.fake_quantize import FakeQuantize

# How undecided weights are pushed to one side, as in AdaRound: not at all in the first
# fifth, then gently at first (a high power is flat about one half).
_WARM, _SHARPEST, _FLATTEST = 0.2, 20.0, 2.0
# Of what is no rounding: per step of the optimizer, as a share of their size.
_SLOWER = 0.1
_SMALLEST = 1e-12


@dataclasses.dataclass(frozen=True)
class Settings:
    """How blocks learn.

    Attributes:
        steps: steps of the optimizer for each block.
        batch: samples of a step.
        rate: learning rate of the roundings.
        decision: weight of the term that makes them decide.
        drop: how often an activation stays in float in a step (QDrop).
        learn_ranges: whether ranges of activations learn.
        learn_steps: whether steps of kernels learn.
        biased: whether biases learn.
        seed: of what is drawn.
    """

    steps: int
    batch: int
    rate: float
    decision: float
    drop: float
    learn_ranges: bool
    learn_steps: bool
    biased: bool
    seed: int


@dataclasses.dataclass(frozen=True)
class Samples:
    """What flows into a block and is to come out of it; samples along the first axis.

    Attributes:
        rounded: its inputs in the rounded network.
        plain: its inputs in the float network.
        wanted: its outputs there.
    """

    rounded: Sequence[np.ndarray]
    plain: Sequence[np.ndarray]
    wanted: Sequence[np.ndarray]

    def part(self, chosen: np.ndarray) -> Samples:
        """Returns those of some samples."""
        return Samples(
            *([a[chosen] for a in x] for x in (self.rounded, self.plain, self.wanted))
        )


class Learning:
    """A block that learns.

    Args:
        graph: the quantization-aware graph.
        block: a part of it.
        weights: those of its layers before they were rounded.
        settings: how it learns.
        number: which block it is, for what is drawn.
    """

    def __init__(
        self,
        graph: Graph,
        block: Block,
        weights: Weights,
        settings: Settings,
        number: int,
    ):
        self.block, self.settings, self._number = block, settings, number
        self._layers = {
            id(one): LearnedLayer(one, weights, settings.biased, settings.learn_steps)
            for one in block.layers
        }
        free = filter(range_learns, block.ranges if settings.learn_ranges else ())
        self._ranges = {id(one): LearnedRange(one) for one in free}
        self._parts: list[LearnedLayer | LearnedRange] = [
            *self._layers.values(),
            *self._ranges.values(),
        ]
        self._mode, self._step = "present", None
        self._places = {id(node): place for place, node in enumerate(graph.nodes)}
        self._execution = Execution(graph, self._operation_of)
        self._soft = [k for one in self._layers.values() for *_, k in one.kernels]

    @property
    def changed(self) -> list[Any]:
        """The variables of the model that `assign` changes."""
        return [variable for part in self._parts for variable in part.variables()]

    def assign(self) -> None:
        """Gives the model what was learned."""
        for part in self._parts:
            part.assign()

    def learn(self, samples: Samples) -> None:
        """Learns from what the samples are to become."""
        import tensorflow as tf

        settings = self.settings
        scales = np.maximum(self.errors(samples, "hard"), _SMALLEST)
        roundings = [kernel.rounding for kernel in self._soft]
        others = [k.scale for k in self._soft if k.scale is not None]
        others += [x.shift for x in self._layers.values() if x.bias is not None]
        others += [one.factors for one in self._ranges.values()]
        count = max(sum(kernel.size for kernel in self._soft), 1)
        optimizers = [
            (keras.optimizers.Adam(settings.rate * factor), variables)
            for factor, variables in ((1.0, roundings), (_SLOWER, others))
            if variables
        ]
        for optimizer, variables in optimizers:
            optimizer.build(variables)
        tensors = _Tensors(samples)

        def loss(step: Any) -> Any:
            self._mode, self._step = "soft", step
            inputs, wanted = tensors.drawn(self._seeds, settings)
            off = sum(
                ops.mean(ops.square(a - b)) / scale
                for a, b, scale in zip(self._outputs(inputs), wanted, scales)
            )
            done = ops.cast(step, "float32") / settings.steps
            left = ops.maximum(1.0 - (done - _WARM) / (1.0 - _WARM), 0.0)
            power = _FLATTEST + (_SHARPEST - _FLATTEST) * ops.minimum(left, 1.0)
            undecided = sum(kernel.undecided(power) for kernel in self._soft)
            decides = ops.cast(done >= _WARM, "float32") * settings.decision
            return off / len(scales) + decides * undecided / count

        def stepped(step: Any) -> tuple[Any]:
            with tf.GradientTape() as tape:
                value = loss(step)
            every = [[v.value for v in found] for _, found in optimizers]
            zero = tf.UnconnectedGradients.ZERO
            gradients = tape.gradient(value, every, unconnected_gradients=zero)
            for (optimizer, variables), own in zip(optimizers, gradients):
                optimizer.apply(own, variables)
            return (step + 1,)

        @tf.function(autograph=False)
        def run() -> None:
            tf.while_loop(
                lambda step: step < settings.steps,
                stepped,
                (tf.constant(0),),
                parallel_iterations=1,
            )

        run.get_concrete_function()()

    def errors(self, samples: Samples, mode: str) -> np.ndarray:
        """Returns the mean squared error of each output.

        Args:
            samples: what flows in, and is to come out.
            mode: `"present"` for the kernels that the model has, `"hard"` for those
                that were learned.
        """
        import tensorflow as tf

        size = self.settings.batch
        tensors, count = _Tensors(samples), len(samples.wanted[0])

        @tf.function(autograph=False)
        def run(chosen: Any) -> list:
            self._mode, self._step = mode, None
            made = self._outputs(tensors.rounded(chosen))
            return [
                ops.mean(ops.square(a - b))
                for a, b in zip(made, tensors.wanted(chosen))
            ]

        rounds = -(-count // size)
        chosen = tf.constant(np.resize(np.arange(count, dtype="int32"), (rounds, size)))
        # Called as it is: TensorFlow warns of functions that are made again and again.
        once = run.get_concrete_function(chosen[0])
        return np.mean([[float(x) for x in once(c)] for c in chosen], axis=0)

    def _outputs(self, inputs: list) -> list:
        values = Keeping(dict(zip(self.block.inputs, inputs)), set(self.block.outputs))
        self._execution.run(values, self.block.positions)
        return [ops.cast(values[tensor], "float32") for tensor in self.block.outputs]

    def _operation_of(self, node: Node) -> Callable:
        operation = node.operation
        if id(operation) in self._layers:
            layer = self._layers[id(operation)]
            return lambda *args, **kwargs: layer.called(self._mode, *args, **kwargs)
        if isinstance(operation, FakeQuantize):
            place = 1 + self._places[id(node)]
            return lambda inputs, **kwargs: self._rounded(node, place, inputs, kwargs)
        return operation

    def _rounded(self, node: Node, place: int, inputs: Any, kwargs: dict) -> Any:
        learned = self._ranges.get(id(node.operation))
        if learned is None or self._mode == "present" or kwargs.get("site", 0) is None:
            rounded = node.operation(inputs, **kwargs)
        else:
            rounded = learned.called(inputs)
        if self._step is None or not self.settings.drop:
            return rounded
        kept = _drawn(inputs, self._seeds(place), self.settings.drop)
        return ops.where(kept, ops.cast(inputs, rounded.dtype), rounded)

    def _seeds(self, place: int) -> Any:
        """Returns the seed of what is drawn at a place in this step."""
        import tensorflow as tf

        words = (self.settings.seed, self._number, place)
        first = zlib.crc32(repr(words).encode()) & 0x7FFFFFFF
        return tf.stack([tf.constant(first, "int32"), tf.cast(self._step, "int32")])


class _Tensors:
    """Samples as tensors, of which rows are taken."""

    def __init__(self, samples: Samples):
        import tensorflow as tf

        self._rounded = [tf.constant(array) for array in samples.rounded]
        self._plain = [tf.constant(array) for array in samples.plain]
        self._wanted = [tf.constant(array) for array in samples.wanted]
        self.count = len(samples.wanted[0])

    def rounded(self, chosen: Any) -> list:
        return [*_taken(self._rounded, chosen)]

    def wanted(self, chosen: Any) -> list:
        return [*_taken(self._wanted, chosen)]

    def drawn(
        self, seeds: Callable[[int], Any], settings: Settings
    ) -> tuple[list, list]:
        """Returns inputs, some numbers of them from the float network, and outputs."""
        import tensorflow as tf

        chosen = tf.random.stateless_uniform(
            (settings.batch,), seeds(0), maxval=self.count, dtype="int32"
        )
        inputs = self.rounded(chosen)
        if settings.drop:
            for place, plain in enumerate(_taken(self._plain, chosen)):
                if plain.dtype.is_floating:
                    kept = _drawn(plain, seeds(-1 - place), settings.drop)
                    inputs[place] = tf.where(kept, plain, inputs[place])
        return inputs, self.wanted(chosen)


def _taken(tensors: list, chosen: Any) -> Iterator[Any]:
    """Yields rows of tensors (samples, rows of a sample, ...) as one axis."""
    import tensorflow as tf

    for tensor in tensors:
        found = tf.gather(tensor, chosen)
        yield tf.reshape(found, (-1, *found.shape[2:]))


def _drawn(like: Any, seed: Any, share: float) -> Any:
    import tensorflow as tf

    return tf.random.stateless_uniform(tf.shape(like), seed) < share
