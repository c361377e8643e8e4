"""Models of Keras 2 and TFMOT as Keras 3 models: `from_tf_keras` and `from_tfmot`."""

from tfcompress.interop.convert import from_tf_keras, from_tfmot

__all__ = ["from_tf_keras", "from_tfmot"]
