"""What rewriting a model costs, beside TFMOT's, and beside another version's.

    python benchmarks/rewrite_cost.py [--against DIRECTORY] [--rounds 3]

CPU seconds of `quantize_aware`, of the first step of `fit` after it and of a plain
model, of `finalize`, `doctor`, `calibrate` and `export` (without its child process) for
one encoder block, an LSTM and MobileNetV2 (alpha 0.35, 96 x 96); and of TFMOT's
`quantize_model` and the first step after it, where TFMOT is installed and takes the
model. `--against` names the checkout of another version, such as a worktree of the last
release. All take turns in processes of their own; what is shown is the median.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEP, PLAIN = "first step of fit", "plain: first step of fit"


def run(side: str, tree: Path, model: str) -> dict | None:
    command = [sys.executable, str(HERE / "_rewrites.py"), side, model]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(f"{side}, {model}: {done.stderr.strip().splitlines()[-1][:150]}")
        return None
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["encoder", "lstm", "mobilenet"])
    arguments = parser.parse_args()
    sides = {"now": ("ours", HERE.parent)}
    if arguments.against:
        sides["before"] = "ours", arguments.against.resolve()
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        print("TFMOT is not installed: skipped")
    else:
        sides["TFMOT"] = "tfmot", HERE.parent
    for model in arguments.models:
        found: dict[str, list[dict]] = {side: [] for side in sides}
        for _ in range(arguments.rounds):
            for side in list(found):
                seconds = run(*sides[side], model)
                if seconds is None:
                    del found[side]  # it does not take the model
                else:
                    found[side].append(seconds)
        show(model, found)


def show(model: str, found: dict[str, list[dict]]) -> None:
    for call in found["now"][0]:
        parts = []
        for side, rounds in found.items():
            if call in rounds[0]:
                parts.append(f"{side} {statistics.median(r[call] for r in rounds):.2f}")
        if "before" in found:
            pairs = zip(found["now"], found["before"])
            ratio = statistics.median(now[call] / old[call] for now, old in pairs)
            parts.append(f"ratio {ratio:.2f}")
        print(f"{model}, {call}: {', '.join(parts)}", flush=True)
    for side, rounds in found.items():
        ratio = statistics.median(one[STEP] / one[PLAIN] for one in rounds)
        print(f"{model}, {side}: first step {ratio:.2f}x of plain", flush=True)


if __name__ == "__main__":
    main()
