"""Are integers faster? LiteRT, 1 thread, batch 1, float against int8, in turns.

    python benchmarks/quantize_latency.py
    python benchmarks/quantize_latency.py --models ResNet50 --size 224

Models of keras.applications with random weights, quantized to w8a8 after one training
step. The two files take turns call by call, so that a busy machine slows both alike.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from _latency import cells, speed_up
from quantize_applications import FAMILIES, application, quantized, smooth_images

import tfcompress


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ("MobileNetV2",)
    parser.add_argument("--models", nargs="+", default=default, choices=FAMILIES)
    parser.add_argument("--size", type=int, default=96, help="height and width")
    parser.add_argument("--runs", type=int, default=100, help="calls in a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print("| model | float, ms | int8, ms | faster by | rounds |")
    print("|---|---|---|---|---|")
    for name in options.models:
        model = application(name, options.size)
        images = smooth_images(model)
        with tempfile.TemporaryDirectory() as folder:
            artifacts = [
                tfcompress.export(one, Path(folder) / f"{kind}.tflite")
                for kind, one in (("float", model), ("int8", quantized(model, images)))
            ]
            row = speed_up(artifacts, images[:1], options.runs, options.rounds)
        print(f"| {name} | {cells(row)}", flush=True)


if __name__ == "__main__":
    main()
