"""Builds a Keras model from the nodes of an ONNX graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress.core.errors import UnsupportedLayerError, one_line
from tfcompress.interop.onnx import operators  # noqa: F401  (they file themselves)
from tfcompress.interop.onnx.call import OPERATORS, Call, spelled
from tfcompress.interop.onnx.folding import FOLDED, folded
from tfcompress.interop.onnx.fusing import Readers, fused
from tfcompress.interop.onnx.inputs import Inputs
from tfcompress.interop.onnx.reading import File, Node
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Names, Value, channels_last


class Rebuilt(NamedTuple):
    """A Keras model, and how its tensors lie.

    Attributes:
        model: the model.
        inputs: of each input, the ONNX axes as they lie in it.
        outputs: of each output, the same.
        rows: of inputs that are looked up, how many rows their tables have.
        batch: the size of a batch that the file asks for; None if any.
    """

    model: keras.Model
    inputs: list[list[int]]
    outputs: list[list[int]]
    rows: dict[str, int]
    batch: int | None


def rebuilt(file: File, inputs: Inputs) -> Rebuilt:
    """Returns the model of a file.

    Raises:
        UnsupportedLayerError: if there is an operator that nobody knows; all are named.
    """
    return _Rebuilding(file, inputs).run()


class _Rebuilding:
    """Goes through the nodes and makes layers of them."""

    def __init__(self, file: File, inputs: Inputs):
        self.file, self.inputs = file, inputs
        self.names = Names()
        self.made: dict[Any, Any] = {}
        self.values: dict[str, Any] = dict(file.constants)
        self.rows: dict[str, int] = {}

    def run(self) -> Rebuilt:
        nodes = self._without_constants(self.file.nodes)
        nodes = fused(nodes, self.values, self.file.outputs)
        self._refuse_unknown(nodes)
        self.readers = Readers(nodes, self.file.outputs)
        orders, symbolic = [], []
        for port in self.inputs.ports:
            order = self.inputs.order(port, self._is_picture(port.name))
            tensor = self.inputs.tensor(port, order, self.names)
            sizes = [self.inputs.shapes[port.name][i] for i in order]
            axes = [[order.index(i)] for i in range(len(order))]
            name = spelled(port.name)
            self.values[port.name] = Value(tensor, sizes, axes, name, self.names)
            symbolic.append(tensor)
            orders.append(order)
        for node in nodes:
            self._add(node)
        outputs, lying = zip(*(self._output(name) for name in self.file.outputs))
        model = keras.Model(
            _single(symbolic), _single(list(outputs)), name=self.file.name
        )
        return Rebuilt(model, orders, list(lying), self.rows, self.inputs.fixed)

    def _without_constants(self, nodes: list[Node]) -> list[Node]:
        """Returns the nodes that depend on the inputs; the others are computed."""
        left = []
        for node in nodes:
            known = all(name in self.values for name in node.inputs if name)
            if known and node.kind in FOLDED:
                self._fold(node)
            else:
                left.append(node)
        return left

    def _refuse_unknown(self, nodes: list[Node]) -> None:
        known = {*OPERATORS, *_SIZES, *FOLDED}
        unknown = [node for node in nodes if node.kind not in known]
        if not unknown:
            return
        told = [f"'{node.name}' ({node.kind})" for node in unknown]
        more = f" and {len(told) - 20} more" if len(told) > 20 else ""
        loops = {"If", "Loop", "Scan"} & {node.kind for node in unknown}
        raise UnsupportedLayerError(
            f"{len(told)} nodes of the ONNX model have no known equal in Keras.",
            received=", ".join(told[:20]) + more,
            expected=f"operators among {', '.join(sorted(OPERATORS))}",
            fix="export the model with torch.onnx.export(..., dynamo=True), which "
            "leaves out branches that are not taken"
            if loops
            else "replace these parts of the model, or export it up to them",
        )

    def _add(self, node: Node) -> None:
        missing = [n for n in node.inputs if n and n not in self.values]
        if missing:
            raise self._unsupported(node, f"{missing} from nowhere", "a whole graph")
        given = [self.values[name] if name else None for name in node.inputs]
        if node.kind in _SIZES:
            self.values[node.outputs[0]] = _SIZES[node.kind](node, given[0])
        elif node.kind in FOLDED and not any(isinstance(g, Value) for g in given):
            self._fold(node)
        elif node.kind not in OPERATORS:
            raise self._unsupported(node, "of the inputs", "constants only")
        else:
            self._call(node, given)

    def _call(self, node: Node, given: list[Any]) -> None:
        try:
            call = Call(
                node, given, self.made, self.names, self.inputs.batch, self.file.opset
            )
            call.fixed, call.limit = self.inputs.fixed, self._limit
            call.before = self.readers.makers.get(node.inputs[0])
            call.used = tuple(
                name in self.readers.readers or name in self.readers.outputs
                for name in node.outputs
            )
            found = OPERATORS[node.kind](call)
        except Refused as refused:
            raise self._unsupported(
                node, refused.received, refused.expected
            ) from refused
        except UnsupportedLayerError:
            raise
        except Exception as error:  # of Keras, on options that are damaged
            raise self._unsupported(
                node, one_line(error, 300), "a node that Keras can say"
            ) from error
        found = [found] if isinstance(found, Value) else found
        self.values.update(
            {n: v for n, v in zip(node.outputs, found) if n and v is not None}
        )

    def _fold(self, node: Node) -> None:
        arrays = [self.values[name] if name else None for name in node.inputs]
        try:
            found = folded(node, arrays, self.file.opset)
        except Refused as refused:
            raise self._unsupported(
                node, refused.received, refused.expected
            ) from refused
        self.values.update(zip(node.outputs, found))

    def _limit(self, name: str, rows: int) -> None:
        while name in self.readers.makers:  # a cast, or a reshape
            name = self.readers.makers[name].inputs[0]
        self.rows[name] = min(rows, self.rows.get(name, rows))

    def _is_picture(self, name: str) -> bool:
        """Returns whether what reads a tensor first has the channels as axis 1."""
        seen, waiting = {name}, [name]
        while waiting:
            for node in self.readers.readers.get(waiting.pop(), []):
                if node.kind in _WITH_CHANNELS:
                    return True
                if node.kind in _EACH_ALONE:
                    waiting += [n for n in node.outputs if n not in seen]
                    seen.update(node.outputs)
        return False

    def _output(self, name: str) -> tuple[Any, list[int]]:
        value = self.values.get(name)
        if not isinstance(value, Value):
            raise UnsupportedLayerError(
                f"Output '{name}' does not depend on the inputs.",
                received=f"{self.file.path}",
                expected="outputs that are computed from the inputs",
            )
        order = _handed_out(value, self.inputs.batch, self._has_channels())
        tensor = value.laid(order)
        if any(tensor is one for one in self._symbolic()):
            same = keras.layers.Identity(name=self.names.unused(spelled(name)))
            tensor = same(tensor)
        return tensor, order

    def _symbolic(self) -> list[Any]:
        return [self.values[port.name].raw for port in self.inputs.ports]

    def _has_channels(self) -> bool:
        return any(n.kind in _WITH_CHANNELS for n in self.file.nodes)

    def _unsupported(self, node: Node, received: str, expected: str) -> Exception:
        return UnsupportedLayerError(
            f"Node '{node.name}' of the ONNX model cannot be said in Keras.",
            received=f"{node.kind}: {received}, in {self.file.path}",
            expected=expected,
            fix="replace this part of the model, or export it up to there",
        )


def _handed_out(value: Value, batch: int, pictures: bool) -> list[int]:
    """Returns in which order the axes of an output are: samples first, as they lie."""
    plain = list(range(value.rank))
    samples = [i for i, n in enumerate(value.shape) if n % batch == 0]
    plain.sort(key=lambda axis: axis not in samples)
    last = channels_last(value.rank)
    lies = value.order() == last and last[:1] == plain[:1]
    return last if lies and (value.rank > 3 or pictures) else plain


def _shape(node: Node, value: Any) -> np.ndarray:
    start = node.attributes.get("start", 0)
    return np.array(value.shape[start : node.attributes.get("end")], "int64")


def _size(node: Node, value: Any) -> np.ndarray:
    return np.array(np.prod(value.shape), "int64")


_SIZES = {"Shape": _shape, "Size": _size}
_WITH_CHANNELS = frozenset(
    (
        *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool"),
        *("GlobalMaxPool", "BatchNormalization", "InstanceNormalization", "Resize"),
        *("GroupNormalization", "Upsample", "DepthToSpace", "SpaceToDepth"),
    )
)
_EACH_ALONE = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Cast", "Clip", "Identity", "Dropout", "Pad"),
        *("Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Gelu", "Silu", "Concat"),
    )
)


def _single(values: list) -> Any:
    return values[0] if len(values) == 1 else values
