"""Models of others as Keras models: `from_onnx`, `from_tf_keras` and `from_tfmot`."""

from tfcompress.interop.convert import from_tf_keras, from_tfmot
from tfcompress.interop.onnx.convert import from_onnx

__all__ = ["from_onnx", "from_tf_keras", "from_tfmot"]
