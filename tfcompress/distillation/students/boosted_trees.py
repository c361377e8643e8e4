"""Distilling a network into gradient-boosted trees, for servers without networks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.core.arguments import integer
from tfcompress.core.data import columns_of
from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.distillation.validation import check_is_model, check_teacher_is_finite


class BoostedTrees:
    """Gradient-boosted trees that answer like a teacher.

    Attributes:
        model: the fitted scikit-learn regressor, from flattened inputs to logits.
        fidelity: R^2 on the training inputs: 1 means the teacher is matched.
    """

    def __init__(self, model: Any, fidelity: float):
        self.model = model
        self.fidelity = fidelity

    def predict(self, x: Any) -> np.ndarray:
        """Returns the teacher's outputs as the trees know them: `(batch, n)`."""
        return np.asarray(self.model.predict(_flat(x)), "float32")

    def export_onnx(self, filepath: str | os.PathLike) -> Path:
        """Writes an ONNX file with input "input" and output "output".

        Raises:
            ExportError: if skl2onnx is missing or the file exists or cannot be
                written.
        """
        path = Path(filepath)
        if path.exists():
            raise ExportError(
                "The file exists.", received=str(path), fix="choose another path"
            )
        try:
            from skl2onnx import to_onnx
            from skl2onnx.common.data_types import FloatTensorType
        except ImportError as error:
            raise ExportError(
                "Trees are exported with skl2onnx, which is not installed.",
                fix="pip install 'tfcompress[trees]'",
            ) from error
        first = self.model.estimators_[0]
        spec = FloatTensorType([None, first.n_features_in_])
        onnx = to_onnx(self.model, initial_types=[("input", spec)], target_opset=15)
        # What skl2onnx calls the output ("variable") says nothing to a caller.
        _rename_output(onnx, "output")
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(onnx.SerializeToString())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ExportError(
                f"The file cannot be written ({error.strerror}).", received=str(path)
            ) from error
        return path


def distill_into_trees(
    teacher: keras.Model, x: Any, batch_size: int = 256, **options: Any
) -> BoostedTrees:
    """Fits gradient-boosted trees to what a teacher says.

    Use it for tabular data and for features, where trees are fast on any CPU and
    auditors know them. Logits are matched as numbers (`LogitsMSE` of trees), one
    ensemble per output, so no labels are needed and unlabelled inputs help.

    Source: the logit regression of Ba and Caruana (2014) with the gradient
    boosting of Friedman, "Greedy Function Approximation" (2001). It is scikit-learn's
    exact implementation, because skl2onnx 1.20 cannot export the histogram one;
    with many samples or inputs pass `subsample=0.2, max_features="sqrt"`.

    Args:
        teacher: a trained model with outputs of shape `(batch, n)`.
        x: array of inputs; flattened for the trees.
        batch_size: of the teacher's predictions.
        **options: passed to `GradientBoostingRegressor`: `n_estimators`
            (trees per output), `max_depth`, `learning_rate`, ...

    Returns:
        A `BoostedTrees`, which predicts and exports to ONNX.

    Raises:
        InvalidArgumentError: if scikit-learn is missing, for a teacher with NaN
            weights or with outputs of another shape, for inputs that are none, do
            not fit the teacher or are no finite numbers.

    Example:

    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> distill_into_trees(teacher, x, n_estimators=3).predict(x).shape
    (50, 2)
    """
    try:
        from sklearn.ensemble import GradientBoostingRegressor
        from sklearn.multioutput import MultiOutputRegressor
    except ImportError as error:
        raise InvalidArgumentError(
            "Boosted trees are those of scikit-learn, which is not installed.",
            fix="pip install 'tfcompress[trees]'",
        ) from error
    check_is_model(teacher)
    integer(batch_size, "Bad `batch_size`.", low=1)
    check_teacher_is_finite(teacher)
    x = _checked(x, teacher)
    answers = teacher.predict(x, batch_size=batch_size, verbose=0)
    if not isinstance(answers, np.ndarray) or answers.ndim != 2:
        raise InvalidArgumentError(
            "Trees can learn from a teacher with one flat output.",
            received=str(keras.tree.map_structure(np.shape, answers)),
            expected="an output of shape (batch, n)",
        )
    model = MultiOutputRegressor(GradientBoostingRegressor(**options))
    inputs = _flat(x)
    model.fit(inputs, answers)
    return BoostedTrees(model, float(model.score(inputs, answers)))


def _checked(x: Any, teacher: keras.Model) -> np.ndarray:
    """Returns the one input that trees and teacher can learn from."""
    ports = getattr(teacher, "inputs", None)
    if ports is not None and len(ports) != 1:
        raise InvalidArgumentError(
            "Trees can learn from a teacher with one input.",
            received=", ".join(port.name for port in ports),
            expected="one input",
        )
    if ports is not None:
        (x,) = columns_of(x, ports, "x").values()
    array = np.asarray(x)
    if not len(array) or not np.isfinite(_flat(array)).all():
        raise InvalidArgumentError(
            f"Trees cannot be fitted to these inputs of teacher '{teacher.name}'.",
            received="no samples" if not len(array) else "NaN or infinity in `x`",
            expected="an array of finite numbers, samples along the first axis",
        )
    return array


def _flat(x: Any) -> np.ndarray:
    array = np.asarray(x, "float32")
    return array.reshape(len(array), -1)


def _rename_output(onnx: Any, name: str) -> None:
    output = onnx.graph.output[0]
    for node in onnx.graph.node:
        for i, existing in enumerate(node.output):
            if existing == output.name:
                node.output[i] = name
    output.name = name
