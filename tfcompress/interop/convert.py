"""from_tf_keras and from_tfmot: a model of Keras 2 in, a model of Keras 3 out."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.errors import UnsupportedLayerError
from tfcompress.interop.ranges import with_ranges
from tfcompress.interop.reading import read
from tfcompress.interop.rebuilding import rebuilt

# How far outputs may be off, as a share of the largest: in float32, and in half of it.
_ERROR, _HALF_ERROR = 1e-3, 3e-2


def from_tf_keras(model: Any) -> keras.Model:
    """Returns a model of Keras 2 (`tf_keras`) as a Keras 3 model.

    When to use: once, for a model that was trained before Keras 3. What comes out is a
    plain Keras model with the same layers, names and weights, to train, compress and
    save as any other. It is not compiled.

    Keras 2 reads the file in a process of its own, so this one stays with Keras 3.

    Args:
        model: a path: .h5, .keras, or the directory of a SavedModel written by
            `model.save` of Keras 2; or a built `tf_keras` model. Functional and
            Sequential models; of TFMOT's wrappers see `from_tfmot`.

    Returns:
        A Functional or Sequential model, whose outputs equal the old model's: both
        are run on two random samples before it is returned, if Keras 2 can run on
        such.

    Raises:
        ArtifactError: if the file is damaged, holds no layers (a subclassed model, a
            graph), or holds code (Lambda layers): code from files is never run.
        UnsupportedLayerError: if a layer, or an option of it, does not exist in
            Keras 3, by its name; or if the outputs are not the same.
        ExportError: if `tf_keras` is not installed.

    Example:

    ```python
    from tfcompress.interop import from_tf_keras

    model = from_tf_keras("trained_in_2022.h5")
    model.save("model.keras")
    ```
    """
    return _converted(model, ("tf_keras",))


def from_tfmot(model: Any) -> keras.Model:
    """Returns a model that was compressed by TFMOT as a Keras 3 model.

    When to use: to go on with a model of `tensorflow_model_optimization`, whether its
    wrappers were stripped or not.

    - **Pruned** (`prune_low_magnitude`): masks are applied, so zeros are zeros. Train
      on with `PruneWeights(ConstantSparsity(...))`.
    - **Clustered** (`cluster_weights`): kernels hold their shared values. Train on with
      `ClusterWeights`.
    - **Quantized** (`quantize_model`, `quantize_apply`): the model is one of
      `quantize_aware` with the ranges that TFMOT found: fit it on, or `finalize` and
      `export` it. TFMOT and `quantize_aware` do not round in all the same places, so
      outputs are close and not equal: docs/migrate_from_tfmot.md says where.

    Args:
        model: as in `from_tf_keras`.

    Returns:
        A Functional or Sequential model.

    Raises:
        ArtifactError: as in `from_tf_keras`.
        UnsupportedLayerError: also for layers with a `QuantizeConfig` of their own.
        ExportError: if TFMOT is not installed.

    Example:

    ```python
    from tfcompress.interop import from_tfmot

    model = from_tfmot("quantized_by_tfmot.h5")
    tfcompress.export(tfcompress.finalize(model), "model.tflite")
    ```
    """
    return _converted(model, ("tf_keras", "tensorflow_model_optimization"))


def _converted(model: Any, packages: tuple[str, ...]) -> keras.Model:
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else model.name
    found = read(model, packages)
    plain, quantized = rebuilt(found.description, found.weights, str(name))
    if quantized:
        return with_ranges(plain, quantized)
    _compare(plain, found.samples, str(name))
    return plain


def _compare(model: keras.Model, samples: dict[str, np.ndarray], source: str) -> None:
    """Raises `UnsupportedLayerError` if a model computes something else than before."""
    inputs = [samples[name] for name in samples if name.startswith("x:")]
    wanted = [samples[name] for name in samples if name.startswith("y:")]
    if not wanted:
        return
    tensors = [ops.convert_to_tensor(one) for one in inputs]
    outputs = model(tensors[0] if len(tensors) == 1 else tensors, training=False)
    half = any(layer.compute_dtype != "float32" for layer in model.layers)
    for position, (output, values) in enumerate(
        zip(keras.tree.flatten(outputs), wanted)
    ):
        if values.dtype.kind != "f":
            continue
        found = ops.convert_to_numpy(output).astype("float64")
        share = _HALF_ERROR if half else _ERROR
        limit = share * np.abs(values[np.isfinite(values)]).max(initial=0.0)
        alike = found.shape == values.shape
        if not alike or not np.allclose(found, values, 0.0, limit, equal_nan=True):
            raise UnsupportedLayerError(
                "Keras 3 computes something else of this model than Keras 2 did.",
                received=f"{source}, output {position} of random inputs, of shapes "
                f"{found.shape} and {values.shape}"
                + (f", off by {np.abs(found - values).max():.3g}" if alike else ""),
                expected=f"the same numbers, within {share:g} of the largest",
                fix="convert parts of the model to find the layer, replace it, and "
                "tell us of it",
            )
