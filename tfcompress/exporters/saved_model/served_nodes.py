"""The nodes of a served graph, and what is known of their tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.graph import producer, with_port


@dataclasses.dataclass
class Served:
    """The nodes of a graph, by name, and what is known of their tensors.

    Attributes:
        nodes: node definitions; those that rules add are there too.
        shapes: static shapes by tensor.
        values: arrays by tensor, of what no input reaches and no variable either.
        weights: arrays by tensor, of what is made of variables only.
        outputs: the tensors that a request asks for.
        readers: the nodes that read a node, by its name.
    """

    nodes: dict[str, Any]
    shapes: dict[str, Any]
    values: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    outputs: list[str]

    def __post_init__(self) -> None:
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes.values():
            for tensor in node.input:
                self.readers.setdefault(producer(tensor), []).append(node)

    def alive(self) -> list[Any]:
        """Returns the nodes that outputs depend on, each behind those that it reads.

        From then on `readers` has these alone.
        """
        given = {producer(tensor) for tensor in (*self.values, *self.weights)}
        found: dict[str, Any] = {}
        waiting = [(producer(tensor), False) for tensor in self.outputs]
        while waiting:
            name, entered = waiting.pop()
            if name in found or name in given or name not in self.nodes:
                continue
            if entered:
                found[name] = self.nodes[name]
                continue
            waiting.append((name, True))
            waiting += [(producer(one), False) for one in self.nodes[name].input]
        self.readers = {}
        for node in found.values():
            for tensor in node.input:
                self.readers.setdefault(producer(tensor), []).append(node)
        return list(found.values())

    def maker(self, tensor: str) -> Any:
        """Returns the node that makes a tensor; None of an argument."""
        return self.nodes.get(producer(self.passed_on(tensor)))

    def passed_on(self, tensor: str) -> str:
        """Returns what identities pass on as this tensor, with its port."""
        node = self.nodes.get(producer(tensor))
        while node is not None and node.op == "Identity" and len(node.input) == 1:
            tensor = node.input[0]
            node = self.nodes.get(producer(tensor))
        return with_port(tensor)

    def number(self, tensor: str) -> float | None:
        """Returns a constant that is one number."""
        value = self.values.get(with_port(tensor))
        return float(value.item()) if value is not None and value.size == 1 else None

    def shape(self, tensor: str) -> list[int | None] | None:
        """Returns the static shape of a tensor; None if its rank is not known."""
        return self.shapes.get(with_port(tensor))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant, and returns its name."""
        self.values[f"{name}:0"] = value
        self.shapes[f"{name}:0"] = list(value.shape)
        return name

    def made(
        self, name: str, op: str, inputs: list[str], shape: Any, **types: int
    ) -> str:
        """Adds an operation, and returns its name.

        Args:
            name: its name.
            op: the kind of operation.
            inputs: the tensors that it reads.
            shape: the static shape of what it makes.
            **types: its attributes that are types.
        """
        if name not in self.nodes:
            node = type(next(iter(self.nodes.values())))(name=name, op=op)
            node.input.extend(inputs)
            for key, kind in types.items():
                node.attr[key].type = kind
            self.nodes[name] = node
            self.shapes[f"{name}:0"] = shape
        return name

    def added(self, like: Any, inputs: list[str], ending: str) -> str:
        """Adds a copy of a node that reads something else, and returns its name."""
        name = f"{like.name}/{ending}"
        if name not in self.nodes:
            node = type(like)()
            node.CopyFrom(like)
            node.name = name
            del node.input[:]
            node.input.extend(inputs)
            self.nodes[name] = node
            for place in range(4):
                if f"{like.name}:{place}" in self.shapes:
                    shape = self.shapes[f"{like.name}:{place}"]
                    self.shapes[f"{name}:{place}"] = shape
        return name


def replace(node: Any, op: str, inputs: list[str], kept: str) -> None:
    """Makes another operation of a node, which keeps one attribute.

    Args:
        node: the node.
        op: the kind of operation.
        inputs: the tensors that it reads.
        kept: the name of the attribute.
    """
    for name in set(node.attr) - {kept}:
        del node.attr[name]
    node.op = op
    del node.input[:]
    node.input.extend(inputs)
