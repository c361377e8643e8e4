"""What values of pixels a model takes: asked of its first layers, or of the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.core.errors import ArtifactError, InvalidArgumentError

PIXELS = ("0..1", "-1..1", "0..255", "caffe", "torch")
PIXELS_HELP = (
    "Values of images from a directory: 0..1, -1..1, 0..255, or caffe and torch as "
    "in keras.applications. Left out, the model's first layers say it."
)
# Factors of layers that turn 0..255 into something small, and the other way round.
_SMALL, _LARGE = 1 / 64, 64
# By what keras.applications calls its models: what their ImageNet weights take. Those
# with None rescale by themselves, unless they were made without that.
_OUTSIDE = {
    r"^(vgg(16|19)|resnet(50|101|152))$": "caffe",
    r"^(mobilenet_|mobilenetv2_|inception_|xception|nasnet)": "-1..1",
    r"^resnet(50|101|152)v2": "-1..1",
    r"^densenet": "torch",
    r"^mobilenetv3": "-1..1",
    r"^(convnext|efficientnet|regnet|resnet-?_?rs)": None,
}
_PASSING = (
    "Identity|Resizing|CenterCrop|Cropping2D|ZeroPadding2D|Dropout|Reshape|Permute|"
    "Rand|Auto|Aug|MixUp|CutMix|Pipeline|Cast|GetItem|ExpandDims|Squeeze|Transpose|"
    "Flip|IntegerSum|InputLayer|Resize|Pad|Copy|Stack"
)
# VGG's means of blue, green and red; ImageNet's of red, green and blue, and deviations.
_CAFFE = np.array((103.939, 116.779, 123.68), "float32")
_TORCH = np.array(((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "float32")


def chosen_pixels(subjects: Sequence[Any], asked: str | None) -> tuple[str, str]:
    """Returns the values of pixels that models take, and how that is known.

    Args:
        subjects: models and artifacts of one kind; Keras models are asked first.
        asked: what the user says; None if nothing.

    Raises:
        InvalidArgumentError: if the user has to say it.
    """
    if asked is not None:
        if asked not in PIXELS:
            raise InvalidArgumentError(
                "Unknown --pixels.",
                received=repr(asked),
                expected=f"one of {', '.join(PIXELS)}",
            )
        return asked, "as asked for by --pixels"
    models = [one for one in subjects if hasattr(one, "layers")]
    for model in models:
        known = _of_model(model)
        if known is not None:
            return known
    for artifact in subjects:
        known = None if artifact in models else _of_artifact(artifact)
        if known is not None:
            return known
    for model in models:
        _refuse_known_names(model)
    return "0..1", (
        "divided by 255, as nothing in the model says otherwise; pass --pixels if it "
        "was trained on others"
    )


def scaled(pixels: str, dtype: str = "float32") -> Any:
    """Returns a function from images of 0 to 255 to what a model takes.

    Raises:
        InvalidArgumentError: for floats of a model that takes whole numbers.
    """
    import keras

    if "int" in dtype:
        if pixels != "0..255":
            raise InvalidArgumentError(
                "The model takes pixels as whole numbers.",
                received=f"--pixels {pixels}",
                expected=f"--pixels 0..255, as its input has type {dtype}",
            )
        return lambda x: keras.ops.cast(keras.ops.round(x), dtype)
    scales = {
        "0..1": lambda x: x / 255.0,
        "-1..1": lambda x: x / 127.5 - 1.0,
        "0..255": lambda x: x,
        "caffe": lambda x: x[..., ::-1] - _CAFFE,
        "torch": lambda x: (x / 255.0 - _TORCH[0]) / _TORCH[1],
    }
    return scales[pixels]


def _of_model(model: Any) -> tuple[str, str] | None:
    from tfcompress.core.graph import is_graph_model, trace

    inputs = getattr(model, "inputs", None)
    if inputs and "int" in str(inputs[0].dtype):
        return "0..255", f"as its input has type {inputs[0].dtype}"
    if not is_graph_model(model) or not model.layers:
        return None
    graph = trace(model, "look at its first layers")
    consumers, waiting = graph.consumers(), list(graph.input_tensors[:1])
    while waiting:
        for node in consumers.get(waiting.pop(0), []):
            pixels = _said_by(node)
            if pixels is not None:
                return pixels, f"as layer '{node.name}' says"
            if re.search(_PASSING, type(node.operation).__name__):
                waiting += node.output_tensors
    return None


def _said_by(node: Any) -> str | None:
    """Returns the values that an operation is made for."""
    kind, layer = type(node.operation).__name__, node.operation
    if kind == "FakeQuantize":
        try:
            return _of_range(*layer.learned_range())
        except InvalidArgumentError:
            return None  # it was never trained
    if kind == "Rescaling":
        scale = float(np.max(np.abs(np.asarray(layer.scale, "float64"))))
        offset = float(np.min(np.asarray(layer.offset, "float64")))
        return _of_factor(scale) or {(2.0, -1.0): "0..1", (0.5, 0.5): "-1..1"}.get(
            (scale, offset)
        )
    if kind == "Normalization":
        mean = np.asarray(layer.mean, "float64")
        deviation = np.sqrt(np.asarray(layer.variance, "float64"))
        if max(np.abs(mean).max(), deviation.max()) > 2:
            return "0..255"
        return "0..1" if mean.min() > 0.05 and deviation.max() <= 0.6 else None
    constants = [
        float(np.max(np.abs(np.asarray(leaf, "float64"))))
        for leaf in (*node.args, *node.kwargs.values())
        if isinstance(leaf, int | float) or hasattr(leaf, "__array__")
    ]
    if not constants:
        return None
    if kind in ("TrueDivide", "Divide"):
        return _of_factor(1 / constants[0]) if constants[0] else None
    if kind == "Multiply":
        return _of_factor(constants[0])
    if kind in ("Subtract", "Add", "BiasAdd"):
        return "0..255" if constants[0] > 2 else None
    return None


def _of_factor(factor: float) -> str | None:
    if factor <= _SMALL:
        return "0..255"
    return "0..1" if factor >= _LARGE else None


def _of_range(low: float, high: float) -> str:
    if high - low > 16:
        return "0..255"
    return "-1..1" if low < -0.25 else "0..1"


def _of_artifact(artifact: Any) -> tuple[str, str] | None:
    from tfcompress.exporters.artifact import Artifact
    from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

    if not isinstance(artifact, Artifact) or not artifact.inputs:
        return None
    info = artifact.inputs[0]
    if info.scale is None and "int" in info.dtype:
        return "0..255", f"as its input has type {info.dtype}"
    if info.scale is None and artifact.format == "tflite":
        try:
            first = TFLiteFile.open(Path(artifact.path)).graphs[0][0]
        except (ArtifactError, IndexError):
            return None  # whoever runs it says what is wrong
        if first.name != "QUANTIZE":
            return None
        info = first.outputs[0].info
    if info.scale is None or info.dtype not in ("int8", "uint8"):
        return None
    lowest = (0 if info.dtype == "uint8" else -128) - (info.zero_point or 0)
    low, high = lowest * info.scale, (lowest + 255) * info.scale
    return _of_range(low, high), f"as input '{info.name}' holds {low:.3g} to {high:.3g}"


def _refuse_known_names(model: Any) -> None:
    """Raises for models of keras.applications whose images are prepared outside."""
    from tfcompress.core.select import walk

    inner = [layer for _, layer in walk(model) if hasattr(layer, "layers")]
    for name in (one.name for one in (model, *inner)):
        for pattern, pixels in _OUTSIDE.items():
            if re.search(pattern, name.lower()):
                usual = f" ({pixels} with its ImageNet weights)" if pixels else ""
                raise InvalidArgumentError(
                    "What values of pixels the model takes cannot be seen.",
                    received=f"'{name}', whose images are prepared outside of it"
                    f"{usual}",
                    expected=f"--pixels with one of {', '.join(PIXELS)}",
                    fix="pass what it was trained with, such as --pixels "
                    f"{pixels or '0..255'}",
                )
