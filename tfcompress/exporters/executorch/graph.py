"""From an ONNX file to the operators that the child process makes PyTorch's of.

XNNPACK computes in integers what stands between a rounding and the next one. So what
only moves numbers goes behind roundings, and gets one of its own that changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_MOVES = {"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze"}
_MOVES |= {"Transpose", "Unsqueeze"}
_ROUND, _FLOAT = "QuantizeLinear", "DequantizeLinear"
_LAST, _FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


@dataclass
class Node:
    """An operator of ONNX.

    Attributes:
        type: its name, "Conv".
        name: that of the node, which says of which layer it is.
        inputs: names of tensors; "" for one that is left out.
        outputs: likewise.
        attributes: as ONNX has them; of a rounding also its numbers.
    """

    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass
class Operators:
    """The operators of a model in the order of execution, and its constants."""

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    inputs: list[str]
    outputs: list[str]

    @classmethod
    def read(cls, content: bytes) -> Operators:
        """Returns those of an ONNX file, as XNNPACK understands them best."""
        import onnx

        graph = onnx.load_from_string(content).graph
        arrays = {
            one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer
        }
        nodes = [
            Node(one.op_type, one.name, list(one.input), list(one.output), _read(one))
            for one in graph.node
        ]
        found = cls(
            nodes, arrays, [i.name for i in graph.input], [o.name for o in graph.output]
        )
        found._name_numbers()
        found._float_for_each_reader(kernels=True)
        found._transpose_kernels()
        found._average_before_moving()
        while any(
            (
                found._float_before_moving(),
                found._round_before_moving(),
                found._without_two_transposes(),
            )
        ):
            pass
        found._without_bounds()
        found._round_after_moving()
        found._float_for_each_reader(kernels=False)
        found._drop_unused()
        return found

    def as_job(self) -> dict[str, Any]:
        """Returns what the child process is told; the constants go as arrays."""
        kept = ("type", "inputs", "outputs", "attributes")
        nodes = [{name: getattr(node, name) for name in kept} for node in self.nodes]
        return {"nodes": nodes, "inputs": self.inputs, "outputs": self.outputs}

    def _makers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs}

    def _readers(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    def _name_numbers(self) -> None:
        """Gives roundings of whole tensors and bounds their numbers as attributes."""
        for node in self.nodes:
            if node.type == "Clip":
                names = zip(("min", "max"), node.inputs[1:])
                bounds = {n: float(self.constants[name]) for n, name in names if name}
                node.attributes, node.inputs = bounds, node.inputs[:1]
            elif node.type in (_ROUND, _FLOAT):
                scale, zero = (self.constants[name] for name in node.inputs[1:])
                if scale.ndim:
                    # ExecuTorch's own kernel reads others as if they were these.
                    self.constants[node.inputs[2]] = zero.astype("int64")
                    continue
                shift = 128 if zero.dtype == np.uint8 else 0
                numbers = {"scale": float(scale), "zero_point": int(zero) - shift}
                node.attributes, node.inputs = numbers, node.inputs[:1]

    def _transpose_kernels(self) -> None:
        """Turns products with constants into linear layers, as PyTorch stores them."""
        makers, readers = self._makers(), self._readers()
        for node in self.nodes:
            if node.type not in ("Gemm", "MatMul") or node.attributes.get("transB"):
                continue
            maker = makers.get(node.inputs[1])
            stored = (
                maker.inputs[0] if maker and maker.type == _FLOAT else node.inputs[1]
            )
            array = self.constants.get(stored)
            shared = any(len(readers[name]) > 1 for name in {stored, node.inputs[1]})
            if (
                array is None
                or array.ndim != 2
                or shared
                or node.attributes.get("transA")
            ):
                continue
            self.constants[stored] = np.ascontiguousarray(array.T)
            if maker and maker.type == _FLOAT and "axis" in maker.attributes:
                maker.attributes["axis"] = 0
            node.type, node.attributes = "Gemm", {"transB": 1}

    def _average_before_moving(self) -> None:
        """Lets averages over pictures see them as convolutions write them."""
        makers = self._makers()
        for node in self.nodes:
            if node.type != "ReduceMean":
                continue
            given = self.constants[node.inputs[1]].tolist() if node.inputs[1:] else None
            axes = node.attributes.get("axes") or given
            maker = makers.get(node.inputs[0])
            before = _through_roundings(maker, makers)
            if (
                sorted(axes or ()) != [1, 2]
                or before is None
                or node.attributes["keepdims"]
            ):
                continue
            if before.attributes.get("perm") == _LAST:
                turned = f"{node.outputs[0]}_turned"
                at = self.nodes.index(node)
                attributes = {"perm": _FIRST}
                self.nodes.insert(
                    at,
                    Node("Transpose", node.name, node.inputs[:1], [turned], attributes),
                )
                node.inputs, node.attributes["axes"] = [turned], [2, 3]

    def _float_before_moving(self) -> bool:
        """Lets floats be moved instead of integers, if any of these are moved."""
        makers, readers = self._makers(), self._readers()
        for float_ in self.nodes:
            move = makers.get(float_.inputs[0]) if float_.type == _FLOAT else None
            if move is None or move.type not in _MOVES:
                continue
            if len(readers[move.outputs[0]]) == 1 and "scale" in float_.attributes:
                made, (source, *more) = float_.outputs, move.inputs
                still = [f"{move.outputs[0]}_float"]
                float_.inputs, float_.outputs = [source], still
                move.inputs, move.outputs = [*still, *more], made
                self.nodes.remove(move)
                self.nodes.insert(self.nodes.index(float_) + 1, move)
                return True
        return False

    def _round_before_moving(self) -> bool:
        """Lets one rounding change places with what moves its numbers, if any does."""
        makers, readers = self._makers(), self._readers()
        for rounding in self.nodes:
            move = makers.get(rounding.inputs[0]) if rounding.type == _ROUND else None
            if (
                move is None
                or move.type not in _MOVES
                or "scale" not in rounding.attributes
            ):
                continue
            after = readers[rounding.outputs[0]]
            if len(readers[move.outputs[0]]) > 1 or [n.type for n in after] != [_FLOAT]:
                continue
            (float_,) = after
            moved, (source, *more) = float_.outputs, move.inputs
            rounding.inputs = [source]
            float_.outputs = [f"{moved[0]}_still"]
            move.inputs, move.outputs = [float_.outputs[0], *more], moved
            self.nodes.remove(move)
            self.nodes.insert(self.nodes.index(float_) + 1, move)
            return True
        return False

    def _without_two_transposes(self) -> bool:
        """Removes one transposition that undoes the one before, if there is any."""
        makers = self._makers()
        for node in self.nodes:
            before = makers.get(node.inputs[0]) if node.type == "Transpose" else None
            if before is None or before.type != "Transpose":
                continue
            first, second = before.attributes["perm"], node.attributes["perm"]
            both = [first[axis] for axis in second]
            if both == sorted(both) and node.outputs[0] not in self.outputs:
                self._replace(node.outputs[0], before.inputs[0])
                self.nodes.remove(node)
                return True
        return False

    def _round_after_moving(self) -> None:
        """Gives what moves rounded numbers a rounding with the same numbers."""
        grids: dict[str, dict[str, Any]] = {}
        nodes = []
        for node in self.nodes:
            nodes.append(node)
            if node.type == _FLOAT and "scale" in node.attributes:
                grids[node.outputs[0]] = node.attributes
            given = [grids.get(name) for name in node.inputs]
            joined = node.type == "Concat" and all(one == given[0] for one in given)
            grid = given[0] if node.type in _MOVES or joined else None
            if grid is not None:
                (made,) = node.outputs
                still, integers = f"{made}_moved", f"{made}_integers"
                node.outputs = [still]
                nodes.append(Node(_ROUND, node.name, [still], [integers], grid))
                nodes.append(Node(_FLOAT, node.name, [integers], [made], grid))
                grids[made] = grid
        self.nodes = nodes

    def _without_bounds(self) -> None:
        """Removes activations that only cut off what the rounding behind cuts off."""
        makers, readers = self._makers(), self._readers()
        for rounding in [node for node in self.nodes if node.type == _ROUND]:
            node = makers.get(rounding.inputs[0])
            bounds = {"min": 0.0} if node and node.type == "Relu" else {}
            if node is None or node.type not in ("Relu", "Clip") or rounding.inputs[1:]:
                continue
            bounds = bounds or node.attributes
            scale, zero = (rounding.attributes[n] for n in ("scale", "zero_point"))
            low, high = scale * (-128 - zero), scale * (127 - zero)
            slack = 1e-6 * (high - low)
            inside = bounds.get("min", low) <= low + slack
            inside = inside and bounds.get("max", high) >= high - slack
            if inside and len(readers[node.outputs[0]]) == 1:
                rounding.inputs = node.inputs[:1]
                self.nodes.remove(node)

    def _float_for_each_reader(self, kernels: bool) -> None:
        """Gives each reader floats of its own, or XNNPACK takes parts in a circle."""
        readers, nodes = self._readers(), []
        for node in self.nodes:
            nodes.append(node)
            made = node.outputs[0]
            wanted = node.type == _FLOAT and bool(node.inputs[1:]) == kernels
            if not wanted or made in self.outputs:
                continue
            for number, reader in enumerate(readers.get(made, [])[1:]):
                own = f"{made}_{number}"
                if made in reader.inputs:
                    reader.inputs = [own if n == made else n for n in reader.inputs]
                    given = [self._copied(name, number) for name in node.inputs]
                    nodes.append(replace(node, inputs=given, outputs=[own]))
        self.nodes = nodes

    def _copied(self, name: str, number: int) -> str:
        """Returns the name of another constant of the same numbers."""
        if name not in self.constants:
            return name
        self.constants[f"{name}_{number}"] = self.constants[name].copy()
        return f"{name}_{number}"

    def _replace(self, name: str, other: str) -> None:
        for node in self.nodes:
            node.inputs = [other if one == name else one for one in node.inputs]

    def _drop_unused(self) -> None:
        wanted = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                kept.append(node)
                wanted.update(node.inputs)
        self.nodes = kept[::-1]
        self.constants = {n: a for n, a in self.constants.items() if n in wanted}


def _read(node: Any) -> dict[str, Any]:
    import onnx

    found = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        if isinstance(value, int | float | str | list):  # and no body of a loop
            found[attribute.name] = value
    return found


def _through_roundings(node: Node | None, makers: dict[str, Node]) -> Node | None:
    """Returns what made the numbers that are rounded."""
    while node is not None and node.type in (_ROUND, _FLOAT, "MaxPool"):
        node = makers.get(node.inputs[0])
    return node
