"""from_onnx: an ONNX file in, a model of Keras out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import keras

from tfcompress.interop.onnx.comparing import compare
from tfcompress.interop.onnx.inputs import Inputs
from tfcompress.interop.onnx.reading import read
from tfcompress.interop.onnx.rebuilding import rebuilt


def from_onnx(
    path: str | os.PathLike[str],
    input_shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> keras.Model:
    """Returns the model of an .onnx file as a Keras model.

    When to use: for a model that was trained in PyTorch (`torch.onnx.export`) or in
    anything else that writes ONNX. What comes out is a Functional model of ordinary
    layers, to train, compress, export and save as any other. It is not compiled.

    - **The channels are last**: a picture of shape (N, C, H, W) is (N, H, W, C) in the
      inputs and outputs of the model. Other axes keep their order; samples are first.
    - **Weights are those of the file**, bit for bit, with their axes in the order of
      Keras. Only what Keras has as one is added up: the two biases of an LSTM.
    - **Names are those of the file**: the layer with `layer1.0.conv1.weight` is called
      `layer1.0.conv1`, other layers as their nodes.

    Source: the operators of https://onnx.ai/onnx/operators, from opset 7 on. Those of
    convolutional, dense and recurrent networks and of transformer encoders are known.

    Args:
        path: the .onnx file; weights in a second file are read from beside it.
        input_shapes: shapes by name of input, in the order of the file, where more
            sizes are free than the number of samples:
            `{"x": (None, 3, 224, 224)}`.

    Returns:
        A Functional model whose outputs equal those of ONNX Runtime: both are run on
        random inputs before it is returned. If `onnxruntime` is not installed, a
        `CompressionWarning` says that nothing was compared.

    Raises:
        ArtifactError: if there is no such file, or it is damaged or not whole.
        UnsupportedLayerError: for operators that are not known, all of them by the
            names of their nodes; for files that are quantized; if more than the number
            of samples is free; or if the outputs are not the same.
        InvalidArgumentError: if `input_shapes` does not fit the file.
        ExportError: if the package `onnx` is not installed.

    Example:

    ```python
    model = tfcompress.from_onnx("trained_in_pytorch.onnx")
    model.save("model.keras")
    tfcompress.export(model, "model.tflite")
    ```
    """
    file = read(path)
    inputs = Inputs(file, input_shapes)
    made = rebuilt(file, inputs)
    compare(file, inputs, made)
    return made.model
