"""Do bits chosen by a solver lose less than bits given up one after the other?

    python benchmarks/bits_by_solver.py --limit 20000 --json bits.json

The float models are trained as in rounding_accuracy.py, whose folder of models
`--folder` takes. For each limit there are four ways: `greedy`, the rule of
`mixed_precision`; the answers of the integer programs whose harm is that of the outputs
and that of the Fisher matrix; and what `choose_bits` returns of these, the best on its
256 samples. Kernels are rounded to the nearest value. Figures are the relative squared
change of the outputs on 2 000 test images, against 8 bits everywhere, and the accuracy
on these images.
"""

import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from _jobs import images, models_folder, options, run_jobs
from quantize_accuracy import CALIBRATION_IMAGES
from rich.console import Console
from rich.table import Table
from rounding_accuracy import trained

import tfcompress
from tfcompress.core.graph import trace
from tfcompress.quantization.calibration import choose_bits as parts
from tfcompress.quantization.calibration.mixed_precision import layers_by_path
from tfcompress.quantization.calibration.program import Limit, greedy, solved

WIDTHS = {"bytes": (8, 4), "bops": (8, 4, 2)}
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WAYS = ("greedy", "outputs", "fisher", "choose_bits")
SAMPLES, TESTED = 256, 2000


def run(job, data, folder):
    train, (x, y) = data
    model = trained({**job, "limit": None}, train, folder)
    samples = train[0][:CALIBRATION_IMAGES]
    aware = tfcompress.calibrate(model, samples, correct_bias=False)
    graph, groups = trace(aware), layers_by_path(model, aware)
    began = time.process_time()
    trial = parts._Trial(aware, groups, samples[:SAMPLES])
    widths = WIDTHS["bops"]
    alone = {path: {b: trial.change({path: b}) for b in widths} for path in groups}
    outputs_s = time.process_time() - began
    weighted = parts._weighted(model, graph, groups, trial, widths, 0)
    fisher_s = time.process_time() - began - outputs_s
    test = parts._Trial(aware, groups, x[:TESTED])
    rows = []
    for kind, widths in WIDTHS.items():
        given = (groups,) if kind == "bytes" else (graph, groups)
        costs = getattr(parts, f"_{kind}")(*given, widths)
        low, high = (sum(f(row.values()) for row in costs.values()) for f in (min, max))
        harms = [
            {path: {b: row[b] for b in widths} for path, row in table.items()}
            for table in (alone, weighted)
        ]
        for share in SHARES:
            limits = [Limit(kind, costs, low + share * (high - low))]
            found = [greedy(harms[0], limits), *(solved(h, limits) for h in harms)]
            found.append(min(found[::-1], key=trial.change))
            for way, bits in zip(WAYS, found):
                with test.at(bits) as outputs:
                    right = float(np.mean(outputs[0].argmax(-1) == y[:TESTED]))
                row = {"limit": kind, "share": share, "way": way, "right": 100 * right}
                rows.append({**row, "change": test.change(bits)})
    return {"rows": rows, "outputs_s": outputs_s, "fisher_s": fisher_s}


def table(results):
    found = Table("model", "limit", "share", *WAYS, *WAYS, title="Change, 1e-3; points")
    flat = [{**row, "model": r["model"]} for r in results for row in r["rows"]]
    for key in dict.fromkeys((r["model"], r["limit"], r["share"]) for r in flat):
        own = [r for r in flat if (r["model"], r["limit"], r["share"]) == key]
        cells = [
            f"{factor * np.mean([r[figure] for r in own if r['way'] == way]):.2f}"
            for figure, factor in (("change", 1000), ("right", 1))
            for way in WAYS
        ]
        found.add_row(*map(str, key), *cells)
    return found


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--models", nargs="+", default=["small-mobilenet"])
    parser.add_argument("--epochs", type=int, default=8, help="then half at RATE / 10")
    parser.add_argument("--folder", help="with trained models; beside --json if absent")
    arguments = parser.parse_args(argv)
    held = images(arguments.limit)
    data = (held.x_train, held.y_train), (held.x_test, held.y_test)
    jobs = [
        {"model": model, "seed": seed, "epochs": arguments.epochs}
        for model in arguments.models
        for seed in arguments.seeds
    ]
    own = models_folder(arguments.json)
    folder = Path(arguments.folder) if arguments.folder else own
    results = run_jobs(jobs, lambda job: run(job, data, folder), arguments.json)
    Console(width=140).print(table(results))
    return results


if __name__ == "__main__":
    main()
