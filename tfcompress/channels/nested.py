"""How channels flow through a model that TimeDistributed holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfcompress.channels.call import Call, Count, fixed, run
from tfcompress.channels.channel_ids import Axes
from tfcompress.core.graph import Tensor, is_graph_model, trace

_INPUT = "InputLayer"
Patch = tuple[str, Callable[[Count], dict]]
"""The name of a layer of the model (or that it is the input), and what changes."""


def model_at_each_step(call: Call) -> None:
    """TimeDistributed around a model: the rules of the layers in it."""
    layer = call.layer
    model = layer.layer
    graph = trace(model, "find the channels of the model")
    models_inside = any(is_graph_model(part) for part in model.layers)
    if models_inside or len(graph.input_tensors) > 1 or len(graph.output_tensors) > 1:
        fixed(call)
        return
    call.fix(call.inputs[0].get(1), f"is a time axis of {call.label}")
    source = {a - 1: members for a, members in call.inputs[0].items() if a > 1}
    channels: dict[Tensor, Axes] = {graph.input_tensors[0]: source}
    patches: list[Patch] = [(_INPUT, _input_shape(model, source))]
    members: list[np.ndarray] = list(source.values())
    for node in graph.nodes:
        inner = run(node, call.ids, channels)
        call.unruled.extend(inner.unruled)
        for site in inner.sites:
            site.operation, site.tensor = layer, None
            call.sites.append(site)
        for counted, update in inner.resizes:
            members.extend(counted)
            patches.append((node.operation.name, update))
    made = channels[graph.output_tensors[0]]
    call.outputs[0] = {axis + 1: i for axis, i in made.items()}
    call.resize(lambda count: {"layer": _patched(layer, patches, count)}, *members)


def _input_shape(model: Any, source: Axes) -> Callable[[Count], dict]:
    def update(count: Count) -> dict:
        shape = list(model.inputs[0].shape)
        for axis, members in source.items():
            shape[axis] = count(members)
        return {"batch_shape": tuple(shape)}

    return update


def _patched(layer: Any, patches: list[Patch], count: Count) -> dict:
    """Returns the config of the held model with the changes of all its layers."""
    changes: dict[str, dict] = {}
    for name, update in patches:
        changes.setdefault(name, {}).update(update(count))
    model = layer.get_config()["layer"]
    config = dict(model["config"])
    config.pop("build_input_shape", None)
    config["layers"] = [
        {**part, "config": {**part["config"], **changes.get(_name(part), {})}}
        for part in config["layers"]
    ]
    return {**model, "config": config}


def _name(part: dict) -> str:
    if part["class_name"] == "InputLayer":
        return _INPUT
    return part["config"].get("name", part.get("name", ""))
