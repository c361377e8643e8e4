"""The picture of one input's way through a soft decision tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def plot(
    way: Any,
    x: np.ndarray,
    questions: Sequence[np.ndarray],
    leaf: np.ndarray,
    class_names: Sequence[str],
) -> Any:
    """Returns a figure: the input, the question at each node, what the leaf says.

    Args:
        way: a `TreePath`.
        x: the input, without axes of length one.
        questions: for each node on the way, the weights of the flattened input.
        leaf: probability of each class.
        class_names: what the classes are called.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.0 * (len(questions) + 2), 2.6), layout="constrained")
    first, *nodes, last = figure.subplots(1, len(questions) + 2)
    first.set_title("input", fontsize=9)
    _draw(first, x, cmap="gray")
    # One scale for all nodes, and white for no influence at all.
    limit = max(float(np.abs(weights).max()) for weights in questions) or 1.0
    for axis, weights, node, right, sure in zip(
        nodes, questions, way.nodes, way.went_right, way.confidence
    ):
        side = "right" if right else "left"
        axis.set_title(f"node {node}\n{side}, {sure:.2f}", fontsize=9)
        _draw(axis, weights.reshape(x.shape), cmap="RdBu_r", vmin=-limit, vmax=limit)
    last.set_title(f"leaf {way.leaf}\n{class_names[way.predicted]}", fontsize=9)
    shown = np.argsort(-leaf)[:5][::-1]
    last.barh(np.arange(len(shown)), leaf[shown], color="0.4")
    last.set_yticks(np.arange(len(shown)), [class_names[i] for i in shown], fontsize=7)
    last.set_xlim(0.0, 1.0)
    last.tick_params(axis="x", labelsize=7)
    last.spines[["top", "right"]].set_visible(False)
    return figure


def _draw(axis: Any, values: np.ndarray, **options: Any) -> None:
    if values.ndim == 2:
        axis.imshow(values, **options)
        axis.axis("off")
        return
    flat = values.ravel()
    colours = ["0.4"] * flat.size
    if "vmin" in options:
        colours = ["tab:red" if value > 0 else "tab:blue" for value in flat]
        axis.set_ylim(1.05 * options["vmin"], 1.05 * options["vmax"])
    axis.bar(np.arange(flat.size), flat, color=colours)
    axis.axhline(0.0, color="black", linewidth=0.5)
    if flat.size <= 12:
        axis.set_xticks(np.arange(flat.size))
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
