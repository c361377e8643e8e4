"""Random models from the whole layer table against every promise, 2 000 of them.

    python benchmarks/random_models.py --count 2000 --json random.json

For each seed a model is drawn (`tests/random_models.py`), and each check
(`tests/random_checks.py`) ends in equality or in one named refusal; anything else is a
fault and is printed. The same seed is the same model: `--seed 4711 --count 1` repeats
one. Results are written as they come, and a run that was stopped goes on there.
"""

import argparse
import collections
import json
import os
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

CHECKS = ["integers", "partly", "macs", "prune", "shrink"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--checks", nargs="+", default=CHECKS, choices=CHECKS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--again", action="store_true", help="repeat what was wrong")
    arguments = parser.parse_args()

    from tests import random_checks
    from tests.random_models import random_model

    results = {}
    if arguments.json and arguments.json.exists():
        results = json.loads(arguments.json.read_text())
    if arguments.again:
        right = random_checks.RIGHT
        results = {key: value for key, value in results.items() if value[0] in right}
    counts = collections.Counter(outcome for outcome, _ in results.values())
    begin = time.monotonic()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        for check in arguments.checks:
            key = f"{check}:{seed}"
            if key in results:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = random_model(seed)
                outcome, detail = getattr(random_checks, f"check_{check}")(model)
            results[key] = [outcome, detail]
            counts[outcome] += 1
            if outcome not in random_checks.RIGHT:
                print(f"{outcome:8} {key} {detail[:300]}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=0))
    print(dict(counts), f"{time.monotonic() - begin:.0f} s")
    return sum(counts.values()) - sum(counts[name] for name in random_checks.RIGHT)


if __name__ == "__main__":
    sys.exit(min(main(), 250))
