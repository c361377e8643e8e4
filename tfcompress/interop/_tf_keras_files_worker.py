"""Reads the files of Keras 2 in the child process; part of `_tf_keras_worker.py`."""

import builtins
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

# What a configuration may name. Keras 2 would import any module that a file asks for.
_MODULES = ("keras", "tf_keras", "tensorflow_model_optimization")
_CODE = ("Lambda", "__lambda__", "function_type")
_MODELS = ("Functional", "Sequential", "Model")
# Of what quantization that keeps clusters (CQAT, PCQAT) adds to a layer.
_CENTROIDS = "cluster_centroids_tf"
#: Of free sizes of an input, by how many axes it has: of pictures, and of others.
_FREE = {4: 32, 5: 16}
_FREE_OTHERWISE = 8


class Refused(Exception):
    """The model cannot be converted; the message says which layer, and why."""


def with_clusters_kept(layer: str) -> Refused:
    """Returns why files of a layer with variables that no loader makes are no use."""
    return Refused(
        f"layer '{layer}' was quantized with its clusters kept (CQAT, PCQAT), which "
        "TFMOT itself cannot read from this format: save the model as a SavedModel, "
        "or call TFMOT's strip_clustering_cqat before you save it"
    )


def load(path: Path) -> Any:
    if path.is_dir():
        return _load_saved_model(path)
    if zipfile.is_zipfile(path):
        return _load_keras(path)
    return _load_h5(path)


def _load_h5(path: Path) -> Any:
    import h5py
    import tf_keras

    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            version = file.attrs.get("keras_version", "2")
            kept = [
                layer
                for layer, group in file.get("model_weights", {}).items()
                if any(
                    _CENTROIDS in str(n) for n in group.attrs.get("weight_names", ())
                )
            ]
    except OSError as error:
        raise Refused(f"it is no .h5 file, or damaged ({error})") from error
    if config is None:
        raise Refused("it holds weights without a model; save the whole model instead")
    _check_version(version)
    _check_config(json.loads(config))
    if kept:
        raise with_clusters_kept(kept[0])
    return tf_keras.models.load_model(path, compile=False)


def _load_keras(path: Path) -> Any:
    import tf_keras

    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            raise Refused(
                "it is a zip file, but no .keras file: config.json is missing"
            )
        config = json.loads(archive.read("config.json"))
        _check_config(config)
        _check_version(json.loads(archive.read("metadata.json")).get("keras_version"))
        members = {name: archive.read(name) for name in archive.namelist()}
    # Keras 2 builds a wrapper once by its build_config and once by its layer, and
    # then misses the weights of one of the two.
    members["config.json"] = json.dumps(_without(config, "build_config")).encode()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.keras"
        with zipfile.ZipFile(copy, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return tf_keras.models.load_model(copy, compile=False, safe_mode=True)


def _load_saved_model(path: Path) -> Any:
    """Returns the model that a SavedModel was made from; its graph is not run."""
    import tf_keras

    root = json.loads(_saved_metadata(path) or "{}")
    config = _tuples(root.get("model_config") or {})
    if config.get("class_name") not in _MODELS:
        raise Refused(
            f"'{root.get('name')}' is a subclassed model ({root.get('class_name')}), "
            "of which a SavedModel keeps the graph and no layers"
        )
    _check_config(config)
    model = tf_keras.models.model_from_config(config)
    status = model.load_weights(str(path / "variables" / "variables"))
    status.assert_existing_objects_matched()
    status.expect_partial()
    return model


def _saved_metadata(path: Path) -> str:
    """Returns what Keras 2 noted of the outermost object of a SavedModel."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    notes, graph = path / "keras_metadata.pb", path / "saved_model.pb"
    try:
        if notes.is_file():
            nodes = saved_metadata_pb2.SavedMetadata.FromString(
                notes.read_bytes()
            ).nodes
            return nodes[0].metadata if nodes else ""
        if graph.is_file():
            # Before TensorFlow 2.5 each object of the graph held its own notes.
            saved = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
            objects = saved.meta_graphs[0].object_graph_def.nodes
            if objects and objects[0].user_object.metadata:
                return objects[0].user_object.metadata
    except (DecodeError, IndexError) as error:
        raise Refused(f"it is no SavedModel, or damaged ({error})") from error
    raise Refused(
        "this SavedModel has no keras_metadata.pb, and no notes of Keras in its "
        "saved_model.pb: it is a graph without layers. "
        "Save the model that it was made from by model.save"
    )


def _check_config(config: Any) -> None:
    """Raises `Refused` if the configuration holds code, or names that lead to some."""
    if isinstance(config, dict):
        name = config.get("class_name")
        inner = config.get("config")
        where = inner.get("name") if isinstance(inner, dict) else None
        if name in _CODE or "function_type" in config:
            raise Refused(
                f"layer '{where or name}' is a Lambda: its code is in the file, and "
                "code from files is never run. Replace it by other layers"
            )
        if name == "TFOpLambda":
            _check_function(config)
        module = config.get("module")
        known = not isinstance(module, str) or module.split(".")[0] in _MODULES
        if module == "builtins":  # functions of Keras, but Python's own too
            known = not hasattr(builtins, str(inner))
        if not known:
            raise Refused(
                f"layer '{where}' is of the class {module}.{name}, not one of Keras"
            )
        for value in config.values():
            _check_config(value)
    elif isinstance(config, list):
        for value in config:
            _check_config(value)


def _check_function(config: dict[str, Any]) -> None:
    """Raises `Refused` for functions of which Keras 2 saves not all that they read."""
    function = (config.get("config") or {}).get("function")
    calls = json.dumps(config.get("inbound_nodes"))
    lost = function == "einsum" and "_CONSTANT_VALUE" in calls
    if function in ("__operators__.eq", "__operators__.ne"):
        lost = '"other"' not in calls and '"y"' not in calls
    if lost:
        named = {"einsum": "tf.matmul", "__operators__.eq": "tf.equal"}
        raise Refused(
            f"layer '{config.get('name')}' calls tf.{function}, of which Keras 2 saves "
            "not all that it reads, so that nothing can load it. Use "
            f"{named.get(str(function), 'tf.not_equal')} or a layer in its place"
        )


def _check_version(version: Any) -> None:
    if str(version).startswith("3"):
        raise Refused(f"it is of Keras {version}: load it by keras.saving.load_model")


def _without(config: Any, key: str) -> Any:
    if isinstance(config, dict):
        return {k: _without(v, key) for k, v in config.items() if k != key}
    if isinstance(config, list):
        return [_without(value, key) for value in config]
    return config


def _tuples(config: Any) -> Any:
    """Returns the configuration with the tuples that JSON has no word for as lists."""
    if isinstance(config, dict):
        if (
            config.get("class_name") in ("__tuple__", "TensorShape")
            and "items" in config
        ):
            return [_tuples(value) for value in config["items"]]
        return {key: _tuples(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_tuples(value) for value in config]
    return config


def samples(model: Any) -> dict[str, Any]:
    """Returns two samples, and what the model computes of them; nothing if it cannot.

    Inputs are `x:0` and so on in the order of the model's inputs, outputs `y:0`.
    """
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    inputs = []
    for tensor in model.inputs:
        free = _FREE.get(len(tensor.shape), _FREE_OTHERWISE)
        shape = [2, *(size or free for size in tensor.shape[1:])]
        values: Any
        if tensor.dtype == tf.string:
            values = random.choice(["", "a", "the b"], shape)
        elif tensor.dtype.is_floating:
            values = random.normal(size=shape).astype(tensor.dtype.as_numpy_dtype)
        else:  # 0 and 1 are in every vocabulary
            values = random.integers(0, 2, shape).astype(tensor.dtype.as_numpy_dtype)
        inputs.append(values)
    try:
        given = [tf.convert_to_tensor(one) for one in inputs]
        outputs = model(given[0] if len(given) == 1 else given, training=False)
    except Exception:  # of any layer, such as free sizes that do not fit
        return {}
    found = [np.asarray(one) for one in tf.nest.flatten(outputs)]
    return {
        **{f"x:{position}": one for position, one in enumerate(inputs)},
        **{f"y:{position}": one for position, one in enumerate(found)},
    }
