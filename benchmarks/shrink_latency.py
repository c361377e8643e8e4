"""Are half the MACs half the time? LiteRT, 1 thread, batch 1, medians in turns.

    python benchmarks/shrink_latency.py
    python benchmarks/shrink_latency.py --models ResNet50 --size 224 --runs 100

Each model of keras.applications is exported as it is and after
`shrink(model, macs=0.5)`; the two take turns call by call, so that a busy machine slows
both alike. Widths are rounded to multiples of 8, as by default.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from _latency import cells, speed_up
from shrink_applications import FAMILIES, application, images_for

from tfcompress.channels.shrink import shrink
from tfcompress.exporters.export import export
from tfcompress.layers import macs

DEFAULT = ("VGG16", "ResNet50", "MobileNet", "MobileNetV2", "MobileNetV3Small")


def compare(name, size, share, runs, rounds):
    """Returns the latencies of a model and its shrunk self, and their ratio."""
    model = application(name, size)
    smaller = shrink(model, macs=share)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = [
            export(m, Path(folder) / f"{kind}.tflite")
            for kind, m in (("full", model), ("small", smaller))
        ]
        found = speed_up(artifacts, images_for(model, 1), runs, rounds)
    return {"macs_share": macs(smaller) / macs(model), **found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=DEFAULT, choices=FAMILIES)
    parser.add_argument("--size", type=int, default=96, help="height and width")
    parser.add_argument("--macs", type=float, default=0.5, help="share to keep")
    parser.add_argument("--runs", type=int, default=50, help="calls in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    rows = {}
    print("| model | left of MACs | full, ms | shrunk, ms | faster by | rounds |")
    print("|---|---|---|---|---|---|")
    for name in options.models:
        rows[name] = row = compare(
            name, options.size, options.macs, options.runs, options.rounds
        )
        print(
            f"| {name} | {row['macs_share']:.1%} | {cells(row)}",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
