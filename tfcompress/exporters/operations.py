"""Operations of TensorFlow that LiteRT has no form for, and the layers they are from.

Each was given to the converter alone, in TensorFlow 2.21. `Erf` is not among them: the
converter knows it as a part of GELU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras

from tfcompress.core.select import walk

_RANDOM = """
    StatelessRandomNormalV2 StatelessRandomUniformV2 StatelessRandomUniformIntV2
    StatelessTruncatedNormalV2 StatelessRandomGammaV3 StatelessMultinomial
"""
_NUMBERS = """
    Acos Acosh AdjustHue AdjustSaturation Asin Asinh Atan Atanh AvgPool3D BitwiseAnd
    BitwiseOr Cholesky Cosh DenseBincount Digamma Erfc Erfinv IRFFT Igamma
    ImageProjectiveTransformV3 Invert LeftShift MatrixDeterminant MatrixInverse
    MatrixSolve MaxPool3D Ndtri Qr SelfAdjointEigV2 Sinh Svd Tan
"""
_TEXTS = "AsString StringLower StringToHashBucketFast"
#: What to do about each.
MISSING = {
    **dict.fromkeys(
        _RANDOM.split(), "draw the numbers in the application, as one more input"
    ),
    **dict.fromkeys(_NUMBERS.split(), "replace the layer that computes it"),
    **dict.fromkeys(_TEXTS.split(), "let the application turn texts into numbers"),
}


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
    paths = {layer.name: path for path, layer in walk(model)}
    found: dict[str, str] = {}
    bodies = function.graph.as_graph_def()
    nodes = [*bodies.node, *(n for f in bodies.library.function for n in f.node_def)]
    for node in nodes:
        if node.op in wanted:
            found.setdefault(_layer_of(node.name, paths), node.op)
    return found


def _layer_of(scope: str, paths: dict[str, str]) -> str:
    """Returns the innermost layer in the scopes of a node, "net/conv_1/Conv2D"."""
    for part in reversed(scope.split("/")):
        # A scope that is opened a second time gets a number.
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in paths:
                return paths[name]
    return ""
