"""ONNX models as Keras models."""
