"""The child process in which Keras 2 and TFMOT live: it describes a model.

Started by `reading.py` in a process of its own, so it imports nothing of tfcompress.
The description is plain data: JSON of layers and how they are called, and arrays.
"""

import contextlib
import inspect
import itertools
import json
import os
import runpy
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

# Scripts have no package to import from.
_FILES = runpy.run_path(str(Path(__file__).with_name("_tf_keras_files_worker.py")))
Refused = _FILES["Refused"]

_WRAPPERS = ("QuantizeWrapper", "QuantizeWrapperV2")
_OPERATIONS = ("TFOpLambda", "SlicingOpLambda", "InstanceProperty", "InstanceMethod")
_MODELS = ("Functional", "Sequential", "Model")
#: By what share steps of training may have moved the largest weight from its range.
_MOVED = 0.02
#: Of TFMOT's quantize_model: the formats that have a counterpart.
_KNOWN_CONFIGS = (
    *("Default8BitQuantizeConfig", "Default8BitConvQuantizeConfig"),
    *("Default8BitConvTransposeQuantizeConfig", "NoOpQuantizeConfig"),
    *("Default8BitActivationQuantizeConfig", "Default8BitOutputQuantizeConfig"),
    "OutputOnlyConfig",
)


def describe(job: dict[str, Any]) -> dict[str, Any]:
    """Writes `model.json` and `weights.npz` to the folder `output`.

    `path` is a .h5 or .keras file or a SavedModel.
    """
    try:
        import numpy as np

        with _scope():
            model = _FILES["load"](Path(job["path"]))
            model = _without_training_wrappers(model)
            weights: dict[str, Any] = {}
            description = _model(model, weights, "")
        output = Path(job["output"])
        (output / "model.json").write_text(json.dumps(description, default=_plain))
        np.savez(output / "weights.npz", **weights)
        np.savez(output / "samples.npz", **_FILES["samples"](model))
        return {}
    except Refused as error:
        # Its text is for the user as it is.
        return {"refused": str(error)}


def _plain(value: Any) -> Any:
    """Returns what JSON has no word for: NumPy's numbers, shapes, wrapped lists."""
    if hasattr(value, "as_list"):
        return value.as_list()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, tuple)):
        return list(value)
    if value is Ellipsis:
        return {"class_name": "__ellipsis__"}
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    if name is not None:  # a dtype, or an activation that is a function
        return str(name)
    raise TypeError(f"{type(value).__name__} in a configuration")


@contextlib.contextmanager
def _scope():
    """Inside, Keras 2 knows TFMOT's classes, if TFMOT is installed."""
    with contextlib.ExitStack() as stack:
        tfmot = _tfmot()
        if tfmot is not None:
            stack.enter_context(tfmot.sparsity.keras.prune_scope())
            stack.enter_context(tfmot.clustering.keras.cluster_scope())
            stack.enter_context(tfmot.quantization.keras.quantize_scope())
            wrapper = tfmot.quantization.keras.QuantizeWrapper
            wrapper.load_own_variables = _load_from_the_end
        yield


def _load_from_the_end(wrapper: Any, store: Any) -> None:
    """Loads the variables of a QuantizeWrapper from a .keras file.

    TFMOT writes the kernel and the bias once more in front, and cannot read that.
    """
    variables = wrapper._trainable_weights + wrapper._non_trainable_weights
    values = [store[str(position)] for position in range(len(store))]
    values = values[len(values) - len(variables) :]
    if any(v.shape != value.shape for v, value in zip(variables, values)):
        raise _FILES["with_clusters_kept"](wrapper.name)
    for variable, value in zip(variables, values):
        variable.assign(value)


def _tfmot() -> Any:
    try:
        import tensorflow_model_optimization
    except ImportError:
        return None
    return tensorflow_model_optimization


# ------------------------------------------------------------------ TFMOT's wrappers


def _without_training_wrappers(model: Any) -> Any:
    """Returns the model without the wrappers of pruning and clustering.

    Masks are applied and clustered weights put in place first.
    """
    tfmot = _tfmot()
    if tfmot is None:
        return model
    names = {type(layer).__name__ for layer in model._flatten_layers()}
    if "PruneLowMagnitude" in names:
        for layer in model._flatten_layers():
            for kernel, mask, _ in getattr(layer, "pruning_vars", ()):
                kernel.assign(kernel * mask)
        model = tfmot.sparsity.keras.strip_pruning(model)
    if names & {"ClusterWeights", "ClusterWeightsRNN"}:
        model = tfmot.clustering.keras.strip_clustering(model)
    return model


# ------------------------------------------------------------------ the description


def _model(model: Any, weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    if type(model).__name__ not in _MODELS:
        raise Refused(
            f"'{model.name}' is a subclassed model ({type(model).__name__}), which has "
            "no configuration that tells its layers"
        )
    sequential = type(model).__name__ == "Sequential"
    if not model.built:
        raise Refused(
            f"'{model.name}' is not built: call it once on data before saving"
        )
    config = model.get_config()
    layers = {layer.name: layer for layer in model.layers}
    if sequential:
        entries = _chain(model, config["layers"])
    else:
        entries = [_entry(one) for one in config["layers"]]
    found = [
        _layer(entry, layers.get(entry["name"]), weights, prefix) for entry in entries
    ]
    last = [[entries[-1]["name"], 0, 0]]
    return {
        "class_name": "Sequential" if sequential else "Functional",
        "name": model.name,
        "trainable": bool(model.trainable),
        "layers": found,
        "inputs": last and [[entries[0]["name"], 0, 0]]
        if sequential
        else config["input_layers"],
        "outputs": last if sequential else config["output_layers"],
    }


def _chain(model: Any, configs: list[dict]) -> list[dict]:
    """Returns the entries of a Sequential as those of a Functional model."""
    entries = [_entry(one) for one in configs]
    if entries[0]["class_name"] != "InputLayer":
        config = {
            "batch_input_shape": list(model.input_shape),
            "dtype": model.inputs[0].dtype.name,
            "name": f"{entries[0]['name']}_input",
        }
        entries.insert(
            0, {"class_name": "InputLayer", "config": config, "name": config["name"]}
        )
        entries[0]["calls"] = []
    for before, entry in itertools.pairwise(entries):
        entry["calls"] = [{"args": {"tensor": [before["name"], 0, 0]}, "kwargs": {}}]
    return entries


def _entry(one: dict[str, Any]) -> dict[str, Any]:
    config = one["config"]
    name = one.get("name") or config["name"]
    calls = [_call(node) for node in one.get("inbound_nodes") or []]
    return {
        "class_name": one["class_name"],
        "config": config,
        "name": name,
        "calls": calls,
    }


def _call(node: Any) -> dict[str, Any]:
    """Returns a call; tensors are `{"tensor": [layer, number of its call, index]}`."""
    if isinstance(node, dict):
        return {"args": {k: _tensor(v) for k, v in node.items()}, "kwargs": {}}
    if isinstance(node[0], str):  # of a layer that takes one
        node = [node]
    kwargs: dict[str, Any] = {}
    args = [_argument(part, kwargs) for part in node]
    kwargs = {key: _tensors(value) for key, value in kwargs.items() if key != "name"}
    return {"args": args[0] if len(args) == 1 else args, "kwargs": kwargs}


def _argument(part: Any, kwargs: dict[str, Any]) -> Any:
    """Returns the first argument of a call, and notes the others that stand with it."""
    if not isinstance(part[0], str):  # a list, as of tf.concat
        return [_argument(one, kwargs) for one in part]
    kwargs.update((part[3] if len(part) > 3 else None) or {})
    return part[2] if part[0] == "_CONSTANT_VALUE" else _tensor(part)


def _is_tensor(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and isinstance(value[2], int)
    )


def _tensor(value: Any) -> dict[str, Any]:
    return {"tensor": list(value[:3])}


def _tensors(value: Any) -> Any:
    if _is_tensor(value):
        return _tensor(value)
    if isinstance(value, (list, tuple)):
        return [_tensors(one) for one in value]
    if isinstance(value, dict):
        return {key: _tensors(one) for key, one in value.items()}
    return value


def _layer(
    entry: dict[str, Any], layer: Any, weights: dict[str, Any], prefix: str
) -> dict[str, Any]:
    """Returns the description of one layer, without the wrapper around it."""
    name, kind = entry["name"], entry["class_name"]
    found = {
        "name": name,
        "class_name": kind,
        "calls": entry["calls"],
        "plain_name": name,
    }
    if kind in _OPERATIONS:
        return {**found, "config": entry["config"]}
    if kind == "InputLayer" or layer is None:
        return {**found, "config": _simple(entry["config"])}
    if kind == "QuantizeLayer":
        return {
            **found,
            "config": {},
            "range": _range(getattr(layer, "quantizer_vars", None)),
        }
    values: list[Any] = []
    if kind == "QuantizeAnnotate":
        raise Refused(f"layer '{name}' is annotated only: call quantize_apply first")
    if kind in _WRAPPERS:
        found |= _quantized(layer)
        # A call puts rounded tensors in the place of kernels, which come first.
        values = [
            _in_range(kernel.numpy(), ends["min_var"].numpy(), ends["max_var"].numpy())
            for kernel, _, ends in layer._weight_vars
        ]
        layer = layer.layer
        kind = type(layer).__name__
        found["plain_name"] = layer.name
    elif kind in _MODELS:
        return {**found, "model": _model(layer, weights, f"{prefix}{name}/")}
    values += layer.get_weights()
    for position, value in enumerate(values):
        weights[f"{prefix}{name}:{position}"] = value
    return {
        **found,
        "class_name": kind,
        "module": type(layer).__module__,
        "config": _simple(layer.get_config()),
        "defaults": _simple(_defaults(type(layer))),
        "weights": len(values),
    }


def _in_range(kernel: Any, low: Any, high: Any) -> Any:
    """Returns a kernel whose largest values are those that TFMOT rounds it by.

    TFMOT takes its range before a step of training, and keeps it when the step has
    moved the kernel. The range of a kernel here is its largest value.
    """
    import numpy as np

    largest = np.maximum(-low, high)  # of each output channel, or of all
    clipped = np.clip(kernel, -largest, largest)
    axes = tuple(range(kernel.ndim - 1)) if largest.ndim else None
    present = np.abs(clipped).max(axis=axes, keepdims=largest.ndim > 0)
    # A range that was never taken (-6 to 6), or long ago, says nothing of the kernel.
    near = present > (1 - _MOVED) * largest
    at_the_end = near & (np.abs(clipped) >= present)
    return np.where(at_the_end, np.sign(clipped) * largest, clipped)


def _quantized(wrapper: Any) -> dict[str, Any]:
    kind = type(wrapper.quantize_config).__name__
    if kind not in _KNOWN_CONFIGS:
        raise Refused(
            f"layer '{wrapper.name}' has a QuantizeConfig of its own ({kind}); only "
            "TFMOT's 8 bits are known"
        )
    before = after = None
    for activation in wrapper._quantize_activations:
        before = _range(getattr(activation, "_pre_activation_vars", None)) or before
        after = _range(getattr(activation, "_post_activation_vars", None)) or after
    if wrapper._output_quantizers:
        after = _range(wrapper._output_quantizer_vars)
    # With one scale for all channels, or one for each.
    scales = [
        int(v["min_var"].shape.num_elements()) for _, _, v in wrapper._weight_vars
    ]
    return {
        # Before the first layer that is annotated, only the output is rounded.
        "quantized": kind != "OutputOnlyConfig",
        "before_activation": before,
        "after": after,
        "scales": max(scales, default=0),
    }


def _range(variables: Any) -> list[float] | None:
    if not variables:
        return None
    return [float(variables["min_var"].numpy()), float(variables["max_var"].numpy())]


def _simple(config: Any) -> Any:
    """Returns the configuration without TFMOT's activations, as plain JSON."""
    text = json.dumps(config, default=_serialized)
    return _activations(json.loads(text))


def _serialized(value: Any) -> Any:
    if hasattr(value, "get_config"):
        return {"class_name": type(value).__name__, "config": value.get_config()}
    return _plain(value)


def _activations(config: Any) -> Any:
    if isinstance(config, dict):
        kind = config.get("class_name")
        if kind == "QuantizeAwareActivation":
            return _activations(config["config"]["activation"])
        if kind == "NoOpActivation":
            return "linear"
        return {key: _activations(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_activations(value) for value in config]
    return config


def _defaults(kind: type) -> dict[str, Any]:
    """Returns what a class and its bases take, where nothing else is said."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        with contextlib.suppress(TypeError, ValueError):
            for name, parameter in inspect.signature(base).parameters.items():
                if parameter.default is not inspect.Parameter.empty:
                    found[name] = parameter.default
    return found


JOBS = {"describe": describe}
