"""Runs a SavedModel in TensorFlow's C API, in a process without TensorFlow's Python."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from tensorflow.core.protobuf import saved_model_pb2


def run_in_c_api(artifact, arrays):
    """Returns the outputs of `serving_default` by name, for arrays by input name."""
    graph = (artifact.path / "saved_model.pb").read_bytes()
    parsed = saved_model_pb2.SavedModel.FromString(graph)
    signature = parsed.meta_graphs[0].signature_def["serving_default"]
    count = len(next(iter(arrays.values())))
    shapes = {
        name: (count, *(axis.size for axis in info.tensor_shape.dim[1:]))
        for name, info in signature.outputs.items()
    }
    job = {
        "path": str(artifact.path),
        "inputs": [
            {
                "tensor": info.name,
                "shape": arrays[name].shape,
                "values": arrays[name].reshape(-1).tolist(),
            }
            for name, info in signature.inputs.items()
        ],
        "outputs": [
            {"tensor": info.name, "size": int(np.prod(shapes[name]))}
            for name, info in signature.outputs.items()
        ],
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("_c_api_worker.py"))],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = dict(zip(signature.outputs, json.loads(done.stdout), strict=True))
    return {
        info.name: np.reshape(found[info.name], shapes[info.name])
        for info in artifact.outputs
    }
