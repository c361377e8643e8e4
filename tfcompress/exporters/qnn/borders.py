"""Where floats become integers and integers floats: on the processor.

The NPU would take floats as those of 16 bits, whose rounding moves one input in some
hundreds by a step, and a layer adds up many inputs. On the processor it is exact, and
a quarter of the bytes goes to the NPU.
"""

from __future__ import annotations

from typing import Any

from tfcompress.exporters.qnn.nodes import MICROSOFT, only, readers_of, replace_nodes


class Borders:
    """A model cut into what the NPU computes and what is before and behind it.

    Args:
        content: an ONNX model with integers before and behind its operators.

    Attributes:
        inner: the ONNX model for the NPU; integers go in and come out.
    """

    def __init__(self, content: bytes):
        import onnx

        self._whole = onnx.load_from_string(content)
        graph = self._whole.graph
        ends = {one.name for one in graph.output}
        self._entrances = _entrances(graph)
        self._before = [node for path in self._entrances for node in path]
        self._behind = [
            node
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.output[0] in ends
        ]
        self.inner = self._cut(content)

    def joined(self, compiled: bytes) -> bytes:
        """Returns the whole model around the program that `inner` was compiled to."""
        import onnx

        program = onnx.load_from_string(compiled)
        whole = onnx.ModelProto.FromString(self._whole.SerializeToString())
        nodes = [*self._before, *program.graph.node, *self._behind]
        replace_nodes(whole.graph, nodes)
        del whole.graph.value_info[:]
        # Nobody could tell otherwise what the program puts out.
        whole.graph.value_info.extend(program.graph.output)
        _drop_unread(whole.graph)
        known = {one.domain for one in whole.opset_import}
        others = (one for one in program.opset_import if one.domain not in known)
        whole.opset_import.extend(others)
        return whole.SerializeToString()

    def _cut(self, content: bytes) -> bytes:
        """Returns the model between the borders."""
        import onnx

        inner = onnx.load_from_string(content)
        graph = inner.graph
        read = readers_of(graph)
        gone = {node.output[0] for node in self._before}
        # A tensor that is an output may be read on the NPU as well.
        gone |= {n.output[0] for n in self._behind if len(read[n.output[0]]) == 1}
        replace_nodes(graph, [n for n in graph.node if n.output[0] not in gone])
        inputs = [
            self._info(graph.input, first.input[0], last.output[0], last.input[2])
            for first, *_, last in (path * 2 for path in self._entrances)
        ]
        outputs = {
            node.input[0]: self._info(
                graph.output, node.output[0], node.input[0], node.input[2]
            )
            for node in self._behind
            if node.input[0] not in gone
        }
        ends = {node.output[0] for node in self._behind}
        read = readers_of(graph)
        inputs += [one for one in graph.input if one.name in read]
        rest = [one for one in graph.output if one.name not in ends]
        del graph.input[:], graph.output[:]
        graph.input.extend(inputs)
        graph.output.extend([*outputs.values(), *rest])
        _drop_unread(graph)
        return bytes(inner.SerializeToString())

    def _info(self, infos: Any, name: str, integers: str, zero: str) -> Any:
        """Returns the description of the integers beside an input or output."""
        import onnx

        known = next(one for one in infos if one.name == name)
        info = onnx.ValueInfoProto.FromString(known.SerializeToString())
        info.name = integers
        constants = {one.name: one for one in self._whole.graph.initializer}
        info.type.tensor_type.elem_type = constants[zero].data_type
        return info


def _entrances(graph: Any) -> list[list[Any]]:
    """Returns the nodes that make integers of each input, and then wider ones."""
    inputs, readers = {one.name for one in graph.input}, readers_of(graph)
    paths = []
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in inputs:
            continue
        floats = only(readers, node.output[0])
        wide = only(readers, floats.output[0]) if floats is not None else None
        widened = wide is not None and wide.domain == MICROSOFT != node.domain
        paths.append([node, floats, wide] if widened else [node])
    return paths


def _drop_unread(graph: Any) -> None:
    """Removes the constants that no node reads."""
    read = readers_of(graph)
    kept = [one for one in graph.initializer if one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
