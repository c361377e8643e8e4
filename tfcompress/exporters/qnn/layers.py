"""Which layer an operator of the NPU comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfcompress.core.select import walk
from tfcompress.exporters.onnx.exporter import layer_of
from tfcompress.quantization.fake_quantize import FakeQuantize

_SUFFIX = "_quantizer"
# How many operators further one looks for a name.
_FAR = 8


@dataclass(frozen=True)
class Layers:
    """The layers of a model, and the operators that it was converted to.

    Attributes:
        names: those of its layers, without those that only round.
        nodes: the names of the ONNX operators, with the names of what each makes and
            of those that read it.
    """

    names: set[str]
    nodes: dict[str, list[str]]

    @classmethod
    def of(cls, model: Any, content: bytes) -> Layers:
        """Returns those of a model whose ONNX file is `content`."""
        import onnx

        found = [layer for _, layer in walk(model)]
        names = {one.name for one in found if not isinstance(one, FakeQuantize)}
        # What only rounds is called after the layer before it.
        roundings = {one.name for one in found if isinstance(one, FakeQuantize)}
        names |= {name.removesuffix(_SUFFIX) for name in roundings}
        # `keras.ops.cosh(x)` is no layer.
        names |= {one.name for one in getattr(model, "operations", ())} - roundings
        graph = onnx.load_from_string(content).graph
        readers: dict[str, list[str]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.name)
        nodes = {
            node.name: [
                *node.output,
                *(reader for name in node.output for reader in readers.get(name, ())),
            ]
            for node in graph.node
        }
        return cls(names, nodes)

    def of_operator(self, operator: dict[str, Any]) -> str:
        """Returns "layer 'conv'", or that of what comes next; empty without any."""
        paths = [operator["name"], *operator.get("sources", ())]
        for _ in range(_FAR):
            found = (layer_of(self._plain(path), self.names) for path in paths)
            name = next(filter(None, found), "")
            if name:
                return name
            paths = [name for path in paths for name in self.nodes.get(path, ())]
        return ""

    def _plain(self, path: str) -> str:
        return "/".join(part.removesuffix(_SUFFIX) for part in path.split("/"))
