"""Building the smaller model: configs and weights without the removed channels."""

from __future__ import annotations

import collections
import functools
from typing import Any

import keras
import numpy as np

from tfcompress.channels.call import Site
from tfcompress.channels.dependencies import Dependencies
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Node, build

Offsets = dict[int, np.ndarray]
"""Constants to add to a layer's bias, by the id of the layer."""


def remove(
    dependencies: Dependencies, removed: set[int], offsets: Offsets | None = None
) -> keras.Model:
    """Returns a new model without the channels of the classes `removed`.

    Args:
        dependencies: the analysed model, which is not touched.
        removed: classes of channels, see `Dependencies.roots`.
        offsets: what constant channels that go added to the layers that read them.
    """
    kept = ~np.isin(dependencies.roots, sorted(removed))
    sites: dict[int, list[Site]] = collections.defaultdict(list)
    for site in dependencies.sites:
        sites[id(site.operation)].append(site)

    def smaller(node: Node) -> dict[str, Any]:
        key = id(node.operation)
        resizes = dependencies.resizes.get(key, [])
        untouched = all(kept[site.ids].all() for site in sites[key])
        if untouched and (sites[key] or not resizes) and key not in (offsets or {}):
            return {}
        updates: dict = {}
        for update in resizes:
            updates.update(update(lambda members: int(kept[members].sum())))
        weights = _sliced(node.operation, sites[key], kept)
        offset = (offsets or {}).get(key)
        if offset is not None:
            updates["use_bias"] = True
            weights = _shifted(node.operation, sites[key], kept, weights, offset)
        return {
            "operation": _resized(node.operation, updates),
            "weights": functools.partial(list, weights),
        }

    return build(dependencies.graph.with_operations(smaller))


def _sliced(operation: Any, sites: list[Site], kept: np.ndarray) -> list[np.ndarray]:
    values = []
    for variable in getattr(operation, "weights", []):
        value = keras.ops.convert_to_numpy(variable)
        axes = {s.axis: s.ids for s in sites if s.variable is variable}
        for axis, members in axes.items():
            value = np.compress(kept[members], value, axis=axis)
        values.append(value)
    return values


def _shifted(
    layer: Any,
    sites: list[Site],
    kept: np.ndarray,
    weights: list[np.ndarray],
    offset: np.ndarray,
) -> list[np.ndarray]:
    made = next(site.ids for site in sites if site.role == "output")
    offset = offset[kept[made]].astype(weights[0].dtype)
    if layer.bias is None:
        return [weights[0], offset, *weights[1:]]
    held = [variable is layer.bias for variable in layer.weights]
    return [w + offset if is_bias else w for w, is_bias in zip(weights, held)]


def _resized(operation: Any, updates: dict) -> Any:
    config = _unbuilt({**operation.get_config(), **updates})
    for key, value in config.items():
        # An initializer that holds a whole array fits the old shape only.
        inner = value.get("config", {}) if isinstance(value, dict) else {}
        if key.endswith("_initializer") and np.ndim(_value(inner.get("value", 0))):
            config[key] = "zeros"
    try:
        return type(operation).from_config(config)
    except Exception as error:
        raise InvalidArgumentError(
            f"Cannot rebuild layer '{operation.name}' of type "
            f"{type(operation).__name__} with fewer channels ({error}).",
            fix="give its class a get_config() and from_config() that match, or "
            "exclude it with max_layer_sparsity={'" + operation.name + "': 0.0}",
        ) from error


def _unbuilt(config: Any) -> Any:
    """Returns a config in which no wrapped layer remembers the shape of its input."""
    if isinstance(config, list):
        return [_unbuilt(part) for part in config]
    if not isinstance(config, dict):
        return config
    return {k: _unbuilt(v) for k, v in config.items() if k != "build_config"}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("config", {}).get("value", 0)
    return value
