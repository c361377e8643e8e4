"""The table of layer types, to be read."""

from __future__ import annotations

from typing import Any

from tfcompress.layers.rules import LayerRule, Unknown, rows
from tfcompress.layers.sizes import no_products


def layer_table(operations: bool = False) -> list[dict[str, str]]:
    """Returns what is known of each layer type, a row for each, in words.

    When to use: to see before training what of a model can be pruned, shrunk and
    computed in integers; `tfcompress layers` prints it.

    Args:
        operations: whether to return the operations of `keras.ops` too.

    Returns:
        Rows with the keys "layer", "kernels", "integers", "MACs", "channels",
        "factorize" and "refused by", sorted by the layer's name.

    Example:

    >>> dense = next(row for row in layer_table() if row["layer"] == "Dense")
    >>> dense["kernels"], dense["integers"], dense["MACs"], dense["channels"]
    ('kernel', 'own form', 'formula', 'dense')
    """
    shown = [row for row in rows() if operations or not isinstance(row.layer_type, str)]
    # Layers that tfcompress itself puts into models are nobody's to ask for.
    shown = [row for row in shown if _package(row) != "tfcompress"]
    return sorted(map(_described, shown), key=lambda row: row["layer"].lower())


def layers_by(key: str) -> list[list[str]]:
    """Returns each value of a column of `layer_table`, and Keras' layers of it."""
    layers: dict[str, list[str]] = {}
    of_keras = [_described(row) for row in rows() if _package(row) == "keras"]
    for row in sorted(of_keras, key=lambda row: row["layer"].lower()):
        layers.setdefault(row[key], []).append(f"`{row['layer']}`")
    return [[value, ", ".join(names)] for value, names in sorted(layers.items())]


def _package(row: LayerRule) -> str:
    """Returns whose layer it is; operations are nobody's by their names."""
    kind = row.layer_type
    return "" if isinstance(kind, str) else kind.__module__.split(".")[0]


def _described(row: LayerRule) -> dict[str, str]:
    channels = row.channels
    return {
        "layer": row.name,
        "kernels": ", ".join(kernel.attribute for kernel in row.kernels),
        "integers": "own form" if row.expansion else row.flow or "what `call` does",
        "MACs": _macs(row),
        "channels": getattr(channels, "__name__", channels) or "stay",
        "factorize": "yes" if row.factors else "",
        "refused by": ", ".join(sorted(row.refused_by or ())),
    }


def _macs(row: LayerRule) -> Any:
    if isinstance(row.macs, Unknown):
        return "unknown"
    if row.macs is not None:
        return "none" if row.macs is no_products else "formula"
    return "those of what it holds" if row.holds else "what `call` does"
