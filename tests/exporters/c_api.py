"""Runs a SavedModel in TensorFlow's C API, in a process without TensorFlow's Python."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from tensorflow.core.protobuf import saved_model_pb2


def run_in_c_api(artifact, array):
    """Returns the one output of `serving_default` for its one input."""
    graph = (artifact.path / "saved_model.pb").read_bytes()
    parsed = saved_model_pb2.SavedModel.FromString(graph)
    signature = parsed.meta_graphs[0].signature_def["serving_default"]
    (given,), (wanted,) = signature.inputs.values(), signature.outputs.values()
    shape = (len(array), *(a.size for a in wanted.tensor_shape.dim[1:]))
    job = {
        "path": str(artifact.path),
        "input": given.name,
        "output": wanted.name,
        "shape": array.shape,
        "values": array.reshape(-1).tolist(),
        "size": int(np.prod(shape)),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("_c_api_worker.py"))],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return np.reshape(json.loads(done.stdout), shape)
