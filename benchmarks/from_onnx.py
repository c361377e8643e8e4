"""How far are Keras models from the ONNX files that PyTorch wrote, in floats and int8?

    python benchmarks/from_onnx.py [--int8]

Twelve architectures, each written by both exporters of PyTorch, lie beside the tests
(`tests/interop/onnx_files`, made by `make.py` there). Each becomes a Keras model and is
run beside ONNX Runtime on 64 random inputs. With `--int8` it goes on to the phone:
`calibrate`, `finalize`, `export` and `verify`.
"""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

FILES = sorted((ROOT / "tests/interop/onnx_files").glob("*.onnx"))
SAMPLES = 64


def rows(files, int8=False):
    """Yields name, exporter, layers, largest difference and int8 of each file."""
    from tests.interop.onnx_graphs import compared

    for path in files:
        name = path.stem.removesuffix("_dynamo")
        exporter = "dynamo" if name != path.stem else "TorchScript"
        model, off, inputs = compared(path, SAMPLES)
        integers = in_integers(model, inputs) if int8 and name == path.stem else ""
        yield name, exporter, len(model.layers), off, integers


def in_integers(model, inputs):
    """Returns the share of integers in the int8 file, and its steps from the model."""
    import tfcompress

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", tfcompress.CompressionWarning)
        final = tfcompress.finalize(tfcompress.calibrate(model, inputs))
        artifact = tfcompress.export(final, Path(folder) / "model.tflite")
        steps = tfcompress.verify(artifact, final, inputs).max_error_steps
    return f"{artifact.integer_coverage:.1%}, {steps:g} steps"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--int8", action="store_true", help="go on to int8 .tflite")
    arguments = parser.parse_args()
    print("| network | exporter | layers | largest difference | int8 .tflite |")
    print("|---|---|---|---|---|")
    for name, exporter, count, off, integers in rows(FILES, arguments.int8):
        print(f"| {name} | {exporter} | {count} | {off:.1e} | {integers} |", flush=True)


if __name__ == "__main__":
    main()
