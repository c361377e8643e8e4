"""A model whose last layer is trained on the device, by the file itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from tfcompress.core.arguments import integer, one_of
from tfcompress.core.errors import InvalidArgumentError, UnsupportedLayerError
from tfcompress.core.graph import Graph, Node, Tensor, build, trace

LOSSES = (
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "mean_squared_error",
)


@dataclass(frozen=True)
class OnDeviceTraining:
    """A model that goes to a phone together with the training of its last layer.

    When to use: to adapt a model to its user without data leaving the device. `export`
    it to a .tflite file; that has the signatures `infer`, `train` (one step of SGD on a
    batch), `save` and `restore` (the trained weights, as arrays that the app keeps).
    All layers but the last are stored once, and may be integers.

    Source: https://ai.google.dev/edge/litert/models/ondevice_training has the
    signatures. The gradient of one Dense layer is written out, so plain built-in
    operators are enough.

    Args:
        model: a Functional or Sequential model with one output, whose last layer is a
            Dense in floats, with softmax or none. To quantize all other layers, leave
            it out by `filters`. One without a bias gets one, which begins at zero.
        loss: `"categorical_crossentropy"`, `"sparse_categorical_crossentropy"`, or
            `"mean_squared_error"` for regression.
        batch_size: how many samples a step of training takes.

    Raises:
        InvalidArgumentError: for an unknown loss, or one that does not fit.
        UnsupportedLayerError: if the last layer is another one.

    Example:

    ```python
    adaptive = tfcompress.OnDeviceTraining(model, batch_size=8)
    phone = tfcompress.export(adaptive, "adaptive.tflite")
    infer = tfcompress.load(phone, signature="infer")
    train = infer.with_signature("train")
    loss = train({"image": x, "target": y, "learning_rate": 0.1})
    ```
    """

    model: keras.Model
    loss: str = "categorical_crossentropy"
    batch_size: int = 16

    def __post_init__(self) -> None:
        one_of(self.loss, "Unknown `loss`.", LOSSES)
        integer(self.batch_size, "`batch_size` is a number of samples.", low=1)
        last = self.last
        if (self.loss == "mean_squared_error") == last.softmax:
            raise InvalidArgumentError(
                "The loss does not fit the last layer.",
                received=f"loss={self.loss!r} for '{last.layer.name}' with "
                f"{'a softmax' if last.softmax else 'no activation'}",
                expected="cross-entropy with a softmax, mean squared error without one",
            )

    @property
    def last(self) -> Last:
        """The layer that is trained."""
        return last_of(trace(self.model, "train the last layer on a device"))


@dataclass(frozen=True)
class Last:
    """The last layer of a model.

    Attributes:
        layer: a Dense layer.
        features: what it reads.
        softmax: whether a softmax follows.
        graph: that of the model.
    """

    layer: Any
    features: Tensor
    softmax: bool
    graph: Graph

    @property
    def is_behind_others(self) -> bool:
        """Whether there are layers before it."""
        return self.features not in self.graph.input_tensors

    def body(self) -> keras.Model:
        """Returns the model of the layers before it."""
        return build(dataclasses.replace(self.graph, outputs=self.features))


def last_of(graph: Graph) -> Last:
    """Returns the last layer of a graph.

    Raises:
        UnsupportedLayerError: if it is none that can be trained on a device.
    """
    producers, outputs = graph.producers(), graph.output_tensors
    node = producers.get(outputs[0])
    softmax = False
    if node is not None and _name_of_activation(node) == "softmax":
        softmax, node = True, producers.get(node.inputs[0])
    layer: Any = None if node is None else node.operation
    if len(outputs) != 1 or type(layer) is not layers.Dense or node is None:
        raise UnsupportedLayerError(
            "Only a Dense layer at the end, in floats, is trained on a device.",
            received=f"{len(outputs)} outputs, the first by "
            f"'{getattr(layer, 'name', 'the input')}' ({type(layer).__name__})",
            expected="a model of one output that ends in Dense, with softmax or "
            "without an activation",
            fix="if it is quantized, leave it in float: "
            "filters=lambda layer: layer.name != 'the last layer'",
        )
    calls = sum(one.operation is layer for one in graph.nodes)
    if calls > 1:
        raise UnsupportedLayerError(
            f"'{layer.name}' cannot be trained on a device: the model calls it more "
            "than once.",
            received=f"{calls} calls of it",
            expected="a last layer that is called at the end only",
        )
    activation = getattr(layer.activation, "__name__", "")
    features = node.inputs[0]
    if activation not in ("linear", "softmax") or len(features.shape) != 2:
        raise UnsupportedLayerError(
            f"'{layer.name}' cannot be trained on a device.",
            received=f"activation {activation!r}, inputs of shape {features.shape}",
            expected="softmax or no activation, and inputs (batch, features)",
        )
    return Last(layer, features, softmax or activation == "softmax", graph)


def _name_of_activation(node: Node) -> str:
    layer = node.operation
    if isinstance(layer, layers.Softmax):
        return "softmax"
    if isinstance(layer, layers.Activation):
        return getattr(layer.activation, "__name__", "")
    return ""
