"""A student one can read: a decision tree whose splits are learned by gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import integer, number
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.registry import PACKAGE


@dataclasses.dataclass(frozen=True)
class TreePath:
    """The way of one input through a tree; `print` shows it in one line.

    Attributes:
        nodes: numbers of the inner nodes on the way, 0 being the root.
        went_right: at each of them, whether the way goes right.
        confidence: at each of them, the probability of the side it goes to.
        leaf: number of the leaf, from the left.
        predicted: the leaf's most likely class.
        probability: what the leaf gives that class.
    """

    nodes: tuple[int, ...]
    went_right: tuple[bool, ...]
    confidence: tuple[float, ...]
    leaf: int
    predicted: int
    probability: float

    def __str__(self) -> str:
        steps = [
            f"{'right' if right else 'left'} at node {node} ({sure:.2f})"
            for node, right, sure in zip(self.nodes, self.went_right, self.confidence)
        ]
        end = f"leaf {self.leaf}: class {self.predicted} ({self.probability:.2f})"
        return ", ".join(steps) + f" -> {end}"


@keras.saving.register_keras_serializable(package=PACKAGE)
class SoftDecisionTree(keras.Model):
    """A decision tree that is trained like a network and explains its decisions.

    Use it as a student where somebody has to see why: each input takes one path of
    `depth` linear questions. Trained on a teacher's soft labels it is much better
    than when trained on labels alone. It is fitted, saved and exported like any
    Keras model.

    Source: Frosst and Hinton, "Distilling a Neural Network Into a Soft Decision
    Tree" (2017). Inner node i sends x to the right with probability
    `p_i = sigmoid(w_i x + b_i)`, leaf l holds class probabilities
    `Q_l = softmax(phi_l)`, and with P_l the product of probabilities on the way to
    leaf l the output is

    `log sum_l P_l(x) Q_l`

    that is logits whose softmax is the mixture of leaves. In training the penalty
    of the paper's equation 5 is added, which keeps both sides of a node in use:
    with a_i the share of samples that node i sends right,
    `-penalty * sum_i 2^-level(i) * (log(a_i) + log(1 - a_i)) / 2`.

    Args:
        depth: int in [1, 12]; the tree has 2^depth leaves.
        num_classes: int > 1.
        penalty: float >= 0.
        name: name of the model.

    Input: `(batch, ...)`, flattened. Output: logits of shape
    `(batch, num_classes)`.

    Raises:
        InvalidArgumentError: for arguments outside their ranges.

    Example:

    >>> tree = SoftDecisionTree(depth=2, num_classes=3)
    >>> logits = tree(ops.ones((5, 4)))
    >>> [round(float(p), 4) for p in ops.sum(ops.softmax(logits), axis=-1)]
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        penalty: float = 0.1,
        name: str = "soft_decision_tree",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        self.depth = integer(depth, "Wrong depth of a tree.", 1, 12)
        self.num_classes = integer(
            num_classes, "Wrong num_classes of a tree.", 2, 10**6
        )
        self.penalty = number(penalty, "Wrong penalty.", "[0, inf)")
        depth, num_classes = self.depth, self.num_classes
        self.flatten = keras.layers.Flatten(name="flatten")
        self.splits = keras.layers.Dense(2**depth - 1, name="splits")
        self.leaves = self.add_weight(
            shape=(2**depth, num_classes), initializer="glorot_uniform", name="leaves"
        )

    def build(self, input_shape: Any) -> None:
        self.flatten.build(input_shape)
        self.splits.build(self.flatten.compute_output_shape(input_shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        scores = ops.cast(self.splits(self.flatten(inputs)), "float32")
        right, left = ops.log_sigmoid(scores), ops.log_sigmoid(-scores)
        reached = ops.zeros_like(scores[:, :1])
        for level in range(self.depth):
            nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
            if training and self.penalty:
                self.add_loss(self._imbalance(reached, right[:, nodes], level))
            both = ops.stack([reached + left[:, nodes], reached + right[:, nodes]], -1)
            reached = ops.reshape(both, (-1, 2 ** (level + 1)))
        leaves = ops.log_softmax(ops.cast(self.leaves, "float32"), axis=-1)
        return ops.logsumexp(ops.expand_dims(reached, -1) + leaves, axis=1)

    def _imbalance(self, reached: Any, right: Any, level: int) -> Any:
        arriving = ops.exp(reached)
        share = ops.sum(arriving * ops.exp(right), axis=0) / ops.maximum(
            ops.sum(arriving, axis=0), 1e-7
        )
        share = ops.clip(share, 1e-6, 1.0 - 1e-6)
        both = 0.5 * ops.sum(ops.log(share) + ops.log(1.0 - share))
        return -self.penalty * 2.0**-level * both

    def path(self, x: Any) -> TreePath:
        """Returns the most likely way of one input, of shape `(...)` without batch.

        Raises:
            InvalidArgumentError: for a tree that has seen no data yet, and for
                anything but one input.
        """
        kernel, bias = self._questions()
        flat = np.ravel(ops.convert_to_numpy(x)).astype("float32")
        if len(flat) != len(kernel):
            raise InvalidArgumentError(
                f"Tree '{self.name}' shows the way of one input.",
                received=f"{len(flat)} numbers, of shape {np.shape(x)}",
                expected=f"{len(kernel)} numbers, without a batch axis",
                fix="pass `x[0]`",
            )
        chances = 1.0 / (1.0 + np.exp(-(flat @ kernel + bias)))
        # The leaf with the greatest probability, as in the paper; following the
        # likelier side at each node may end in another one.
        ways = [self._way(leaf) for leaf in range(2**self.depth)]
        likelihood = [
            np.prod([chances[n] if r else 1.0 - chances[n] for n, r in way])
            for way in ways
        ]
        leaf = int(np.argmax(likelihood))
        nodes, turns = zip(*ways[leaf])
        held = ops.convert_to_numpy(ops.softmax(self.leaves[leaf]))
        return TreePath(
            nodes,
            turns,
            tuple(float(chances[n] if r else 1.0 - chances[n]) for n, r in ways[leaf]),
            leaf,
            int(held.argmax()),
            float(held.max()),
        )

    def _questions(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the weights and the biases of the inner nodes."""
        if not self.splits.built:
            raise InvalidArgumentError(
                f"Tree '{self.name}' asks no questions yet.",
                received="a tree that was neither fitted nor called",
                expected="a tree that knows the shape of its inputs",
                fix="fit it first",
            )
        kernel, bias = (ops.convert_to_numpy(w) for w in self.splits.weights)
        return kernel, bias

    def _way(self, leaf: int) -> list[tuple[int, bool]]:
        way, node = [], 0
        for level in reversed(range(self.depth)):
            right = bool(leaf >> level & 1)
            way.append((node, right))
            node = 2 * node + 1 + right
        return way

    def rules(
        self,
        feature_names: Sequence[str] | None = None,
        terms: int = 3,
        class_names: Sequence[str] | None = None,
    ) -> str:
        """Returns the tree as text, with the strongest `terms` of each question.

        Args:
            feature_names: names of the flattened inputs; `x0`, `x1`, ... if absent.
            terms: how many inputs to name per node.
            class_names: names of the classes; their numbers if absent.

        Raises:
            InvalidArgumentError: for a tree that has seen no data yet, and for names
                that are fewer than what they name.
        """
        kernel, bias = self._questions()
        for argument, names, count in (
            ("feature_names", feature_names, len(kernel)),
            ("class_names", class_names, self.num_classes),
        ):
            if names is not None and len(names) != count:
                raise InvalidArgumentError(
                    f"`{argument}` do not fit tree '{self.name}'.",
                    received=f"{len(names)} names",
                    expected=f"{count} names",
                )
        names = feature_names or [f"x{i}" for i in range(len(kernel))]
        classes = class_names or range(self.num_classes)
        held = ops.convert_to_numpy(ops.softmax(self.leaves))
        lines: list[str] = []

        def describe(node: int, level: int) -> None:
            indent = "  " * level
            if level == self.depth:
                leaf = held[node - (2**self.depth - 1)]
                name = classes[leaf.argmax()]
                lines.append(f"{indent}class {name} ({leaf.max():.2f})")
                return
            strongest = np.argsort(-np.abs(kernel[:, node]))[:terms]
            question = " ".join(f"{kernel[i, node]:+.2f}*{names[i]}" for i in strongest)
            rest = " + ..." if len(kernel) > terms else ""
            lines.append(f"{indent}if {question}{rest} {bias[node]:+.2f} > 0:")
            describe(2 * node + 2, level + 1)
            lines.append(f"{indent}else:")
            describe(2 * node + 1, level + 1)

        describe(0, 0)
        return "\n".join(lines)

    def plot_path(
        self,
        x: Any,
        filepath: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Any:
        """Plots the questions on the way of one input; returns the figure.

        The first panel is the input, the last one what the leaf says. Those between
        are the weights of the questions: where they are red, brightness speaks for
        the right side, where they are blue, for the left.

        Args:
            x: one input of shape `(...)`; images show the weights as images.
            filepath: where to save the figure as well, e.g. "path.png".
            class_names: names of the classes; their numbers if absent.
        """
        from tfcompress.distillation.students.tree_plot import plot

        way = self.path(x)
        kernel = ops.convert_to_numpy(self.splits.kernel)
        figure = plot(
            way,
            np.squeeze(ops.convert_to_numpy(x)),
            [kernel[:, node] for node in way.nodes],
            ops.convert_to_numpy(ops.softmax(self.leaves[way.leaf])),
            list(map(str, class_names or range(self.num_classes))),
        )
        if filepath is not None:
            figure.savefig(filepath, dpi=150)
        return figure

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "depth": self.depth,
            "num_classes": self.num_classes,
            "penalty": self.penalty,
        }
