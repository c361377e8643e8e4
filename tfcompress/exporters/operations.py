"""Operations of TensorFlow that LiteRT has no form for, and the layers they are from.

Each was given to the converter alone, in TensorFlow 2.21. The converter knows `Erf` as
a part of GELU, so that one counts where nothing else is computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras

from tfcompress.core.errors import ExportError
from tfcompress.core.select import walk

#: Operations that draw numbers.
RANDOM = (
    *("StatelessRandomNormalV2", "StatelessRandomUniformV2", "StatelessMultinomial"),
    *("StatelessRandomUniformIntV2", "StatelessTruncatedNormalV2"),
    *("StatelessRandomGammaV3", "RandomStandardNormal", "RandomUniform"),
    *("RandomUniformInt", "TruncatedNormal", "Multinomial"),
)
_NUMBERS = """
    Acos Acosh AdjustHue AdjustSaturation Asin Asinh Atan Atanh AvgPool3D BesselI0
    BitwiseAnd BitwiseOr Cholesky Complex Cosh Cross Cumprod DenseBincount Digamma Eig
    Erf Erfc Erfinv FFT FFT2D FFT3D HSVToRGB IFFT IFFT2D IFFT3D IRFFT Igamma
    ImageProjectiveTransformV3 Invert LeftShift LogMatrixDeterminant LowerBound
    MatrixDeterminant MatrixDiagPartV3 MatrixInverse MatrixSolve MatrixTriangularSolve
    MaxPool3D Ndtri Qr RGBToHSV ResizeArea ResizeBicubic ScaleAndTranslate
    SelfAdjointEigV2 Sinh Svd Tan UpperBound
"""
_TEXTS = "AsString SparseCross StringLower StringToHashBucketFast"
#: What to do about each.
MISSING = {
    **dict.fromkeys(RANDOM, "draw the numbers in the application, as one more input"),
    **dict.fromkeys(_NUMBERS.split(), "replace the layer that computes it"),
    **dict.fromkeys(_TEXTS.split(), "let the application turn texts into numbers"),
}


_PARTS_OF_GELU = ("Erf", "Erfc")
# What Keras calls operations otherwise than TensorFlow.
_KERAS_NAMES = {
    f"A{name}": f"Arc{name}" for name in ("cos", "cosh", "sin", "sinh", "tan", "tanh")
}
_KERAS_NAMES |= {"BatchMatMulV2": "Matmul", "DenseBincount": "Bincount"}
_KERAS_NAMES |= {"Invert": "BitwiseInvert", "MatrixInverse": "Inv"}


def layers_with(
    function: Any, model: keras.Model, operations: Iterable[str]
) -> dict[str, str]:
    """Returns which layers of a traced model use operations, and which one each uses.

    Args:
        function: the concrete function that the model was traced to.
        model: the model.
        operations: types of TensorFlow's operations.

    Returns:
        The operation's type by the layer's path; by "" where no layer is known.
    """
    wanted = set(operations)
    paths = named_paths(model)
    kinds = {type(one).__name__: one.name for one in _operations(model)}
    found: dict[str, str] = {}
    bodies = function.graph.as_graph_def()
    nodes = [*bodies.node, *(n for f in bodies.library.function for n in f.node_def)]
    for node in nodes:
        kind = _KERAS_NAMES.get(node.op, node.op)
        if node.op not in wanted or (node.op in _PARTS_OF_GELU and kind not in kinds):
            continue
        # Operations open no scope of their own, as layers do.
        path = layer_of(node.name, paths) or kinds.get(kind, "")
        found.setdefault(path, node.op)
    return found


def refuse_random(function: Any, model: keras.Model, runtime: str) -> None:
    """Refuses a model that draws numbers, where one draw would become a constant.

    Args:
        function: the concrete function that the model was traced to.
        model: the model.
        runtime: what cannot draw anew in each call.

    Raises:
        ExportError: if the model draws numbers.
    """
    drawn = layers_with(function, model, RANDOM)
    if drawn:
        raise ExportError(
            f"{runtime} would hold one draw of random numbers as a constant.",
            received=", ".join(f"{layer or model.name!r}" for layer in drawn),
            expected="layers that draw nothing when the model answers",
            fix=MISSING[RANDOM[0]] + ', or export with format="saved_model"',
        )


def named_paths(model: keras.Model) -> dict[str, str]:
    """Returns the paths of layers, and the names of operations, by their names."""
    operations = {operation.name: operation.name for operation in _operations(model)}
    return {**operations, **{layer.name: path for path, layer in walk(model)}}


def _operations(model: keras.Model) -> list[Any]:
    every = getattr(model, "operations", None) or []
    return [one for one in every if not isinstance(one, keras.Layer)]


def layer_of(scope: str, paths: dict[str, str]) -> str:
    """Returns the innermost layer in the scopes of a node, "net/conv_1/Conv2D"."""
    for part in reversed(scope.split("/")):
        # A scope that is opened a second time gets a number.
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in paths:
                return paths[name]
    return ""
