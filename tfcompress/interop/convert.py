"""from_tf_keras and from_tfmot: a model of Keras 2 in, a model of Keras 3 out."""

from __future__ import annotations

import os
from typing import Any

import keras

from tfcompress.interop.ranges import with_ranges
from tfcompress.interop.reading import read
from tfcompress.interop.rebuilding import rebuilt


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
        A Functional or Sequential model, whose outputs equal the old model's.

    Raises:
        ArtifactError: if the file is damaged, holds no layers (a subclassed model, a
            graph), or holds code (Lambda layers): code from files is never run.
        UnsupportedLayerError: if a layer, or an option of it, does not exist in
            Keras 3; it names the layer.
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
    description, weights = read(model, packages)
    plain, quantized = rebuilt(description, weights, str(name))
    return with_ranges(plain, quantized) if quantized else plain
