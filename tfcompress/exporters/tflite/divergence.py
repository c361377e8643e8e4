"""Where an integer file begins to differ from its model: intermediate tensors compared.

A finalized model rounds at every place where the device has integers, so each of its
roundings should be found again in the file as a tensor of the same scale, zero point
and size, with the same values.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.core.graph import Graph, Node, Tensor, build, is_graph_model, trace
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.export import load
from tfcompress.exporters.keras_runner import KerasRunner
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tflite.fused_lstms import LSTM
from tfcompress.exporters.tflite.rewriting import with_all_outputs
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.integers.sums import IntegerSum

_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class LayerDifference:
    """How far a file is off the model behind one group of fused layers.

    Attributes:
        layers: the layers that the device runs as one operation, in order.
        max_steps: largest difference, in quantization steps of that tensor.
        share: share of its values, from 0 to 1, that differ at all.
    """

    layers: tuple[str, ...]
    max_steps: float
    share: float

    def __str__(self) -> str:
        return (
            f"{' + '.join(self.layers)}: off by {self.max_steps:.0f} steps, "
            f"{self.share:.1%} of its values differ"
        )


def layer_differences(
    artifact: Artifact, model: keras.Model, inputs: Any, signature: str | None = None
) -> list[LayerDifference]:
    """Compares the integer tensors inside a .tflite file with the model's.

    When to use: to find the layer that makes a file differ from its model. `verify`
    calls it when an output is off, and names the first one.

    Args:
        artifact: a .tflite file exported from `model`.
        model: the finalized quantization-aware model.
        inputs: samples, as for `verify`; the first 16 are used.
        signature: which of several signatures is the model's; None for the first.

    Returns:
        One entry for each rounding of the model that is found in the file, in the
        order of execution. Roundings with no tensor of their scale and size in the
        file are left out; for a model without fake quantization the list is empty, and
        for a file with LiteRT's LSTM operator, which has one grid for all its states.
    """
    fused = any(one.name == LSTM for one in artifact.operators)
    if artifact.format != "tflite" or not is_graph_model(model) or fused:
        return []
    graph = trace(model, "compare the layers of the model")
    roundings = [n for n in graph.nodes if isinstance(n.operation, FakeQuantize)]
    if not roundings:
        return []
    batch = {
        name: column[:_SAMPLES]
        for name, column in KerasRunner(model).prepare(inputs).items()
    }
    expected = _run_keras(graph, roundings, model, batch)
    actual = _run_file(artifact, batch, signature)
    producers = graph.producers()
    found = []
    for node, value in zip(roundings, expected):
        difference = _closest(node.operation, value, actual)
        if difference is not None:
            found.append(LayerDifference(_fused(node, producers), *difference))
    return found


def first_divergence(
    artifact: Artifact,
    model: keras.Model,
    inputs: Any,
    tolerance: float,
    signature: str | None = None,
) -> LayerDifference | None:
    """Returns the first layer that is off by more than `tolerance` steps."""
    for difference in layer_differences(artifact, model, inputs, signature):
        if difference.max_steps > tolerance:
            return difference
    return None


def _run_keras(
    graph: Graph, roundings: list[Node], model: keras.Model, batch: dict
) -> list[np.ndarray]:
    outputs = {f"rounding_{i}": node.output for i, node in enumerate(roundings)}
    tapped = build(dataclasses.replace(graph, outputs=outputs))
    # The traced copy has the model's inputs, in its order and under its names.
    values = KerasRunner(tapped).run(batch)
    return [values[name] for name in outputs]


def _run_file(
    artifact: Artifact, batch: dict, signature: str | None
) -> list[tuple[TensorInfo, np.ndarray]]:
    """Returns the run-time integer tensors of the file with their descriptions."""
    with scratch() as directory:
        path = Path(directory) / "all_tensors.tflite"
        content = with_all_outputs(artifact.path.read_bytes(), signature)
        path.write_bytes(content)
        runner = load(path, signature=signature)
        values = runner.run(batch)
    return [(i, values[i.name]) for i in runner.outputs if i.scale is not None]


def _closest(
    rounding: FakeQuantize,
    expected: np.ndarray,
    actual: list[tuple[TensorInfo, np.ndarray]],
) -> tuple[float, float] | None:
    """Returns the difference to the most similar tensor of the same scale and size.

    Layers that share a range have tensors that cannot be told apart by their scale;
    the right one is the one that fits.
    """
    step, (low, _) = rounding.step(), rounding.learned_range()
    best = None
    for info, value in actual:
        if value.size != expected.size or not _same_grid(info, step, low):
            continue
        gap = np.abs(value.reshape(-1) - expected.reshape(-1)) / step
        candidate = (float(gap.mean()), float(gap.max()), float(np.mean(gap > 0.5)))
        best = candidate if best is None else min(best, candidate)
    return None if best is None else best[1:]


def _same_grid(info: TensorInfo, step: float, low: float) -> bool:
    assert info.scale is not None
    assert info.zero_point is not None
    lowest = np.iinfo(info.dtype).min - info.zero_point
    return math.isclose(info.scale, step, rel_tol=1e-4) and round(low / step) == lowest


def _fused(node: Node, producers: dict[Tensor, Node]) -> tuple[str, ...]:
    """Returns the names of the layers between a rounding and the ones before it."""
    names: list[str] = []
    current = node.inputs[0]
    while (before := producers.get(current)) is not None:
        if isinstance(before.operation, FakeQuantize):
            break
        if not isinstance(before.operation, IntegerSum):
            names.append(before.name)
        if len(set(before.inputs)) != 1:
            break
        current = before.inputs[0]
    return tuple(reversed(names)) or (node.name,)
