# It imports PyTorch, which the tests do not need.
collect_ignore = ["onnx_files/make.py"]
