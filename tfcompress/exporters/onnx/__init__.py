"""All that is about ONNX files."""
