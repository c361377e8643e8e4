"""Runs .tflite files on an emulated ARM64 processor.

Needs `qemu-aarch64-static` and, in ARM64_ROOT, a folder with
- the unpacked arm64 packages of Debian: libpython3.11-stdlib, python3.11-minimal and
  what these need (libc6, libstdc++6, zlib1g, libexpat1, libffi8 ...),
- `site/` with the unpacked aarch64 wheels of ai-edge-litert and NumPy,
- `proc/cpuinfo` of an ARM machine.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tfcompress.exporters.tflite.assembling import put_together
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile, read_schema
from tfcompress.exporters.tflite.rewriting import take_apart

# With `max`, version 7.2 of the emulator computes XNNPACK's newest kernels wrongly.
PROCESSOR = "cortex-a72"


def run_on_arm(files, samples, folder):
    """Returns the outputs of each file by name, for samples by input name."""
    root, qemu = os.environ.get("ARM64_ROOT"), shutil.which("qemu-aarch64-static")
    if not root or not qemu:
        pytest.skip(
            "needs qemu-aarch64-static and ARM64_ROOT, see tests/exporters/arm.py"
        )
    arguments = []
    for position, (file, inputs) in enumerate(zip(files, samples)):
        copy, stored = folder / f"{position}.tflite", folder / f"{position}.npz"
        shutil.copy(file, copy)
        np.savez(stored, **inputs)
        arguments += [str(copy), str(stored)]
    worker = Path(__file__).with_name("_arm_worker.py")
    subprocess.run(
        [
            *(qemu, "-cpu", PROCESSOR, "-L", root, "-E", f"PYTHONHOME={root}/usr"),
            *(f"{root}/usr/bin/python3.11", str(worker), f"{root}/site", *arguments),
        ],
        check=True,
        capture_output=True,
        timeout=250,
    )
    return [dict(np.load(f"{path}.outputs.npz")) for path in arguments[::2]]


def with_every_tensor(content):
    """Returns the file with an output for each operator, such as "07 SOFTMAX"."""
    model, schema = take_apart(content), read_schema()
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    names = [operator.name for operator in TFLiteFile(content, "it").operators]
    made = [int(operator.outputs[0]) for operator in graph.operators]
    graph.outputs = np.array(made, "int32")
    signature.outputs = []
    for position, (name, index) in enumerate(zip(names, made, strict=True)):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = f"{position:02} {name}".encode(), index
        signature.outputs.append(entry)
    return put_together(model)
