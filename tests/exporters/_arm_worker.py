"""Runs .tflite files in the aarch64 LiteRT; started by an emulated Python.

Arguments: the folder with the packages, then pairs of a .tflite and an .npz file of
samples. Writes `<file>.outputs.npz`.
"""

import sys

sys.path.insert(0, sys.argv[1])

import numpy as np
from ai_edge_litert.interpreter import Interpreter

for path, samples in zip(sys.argv[2::2], sys.argv[3::2]):
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()
    inputs = dict(np.load(samples))
    count = len(next(iter(inputs.values())))
    found = [run(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
    outputs = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
    np.savez(path + ".outputs.npz", **outputs)
