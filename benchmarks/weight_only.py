"""Weight-only files of a small MobileNet: accuracy, bytes, time, and a rival's.

    python benchmarks/weight_only.py --limit 20000 --json weight_only.json

The float model is the control of `quantize_accuracy.py` (8 epochs, and 4 at a tenth of
the rate), on Fashion-MNIST. Each row is made of it without training: `w8a8` from 500
images, and weight-only schemes without data, or with these images. `dynamic_wi4` and
`weight_only_wi4` are litert-quantizer's recipes on the float file. Accuracies are those
of the .tflite file in LiteRT on 10 000 images; times are CPU milliseconds of one call
on one thread, medians of rounds in which all files take turns, as a share of w8a8's;
seconds are CPU time from float model to finalized model (the rival: file to file).
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from _jobs import images, models_folder, options, run_jobs, spread
from _models import MODELS
from quantize_accuracy import CALIBRATION_IMAGES, RATE, accuracy, fit
from rich.console import Console
from rich.table import Table

DEPTHWISE = {"depthwise": "w8", "": "w4"}


def matrices(layer):
    """Returns whether a layer is a Dense layer or a 1x1 convolution."""
    convolution = isinstance(layer, keras.layers.Conv2D)
    pointwise = convolution and layer.kernel_size == (1, 1)
    return pointwise or isinstance(layer, keras.layers.Dense)


def wide_matrices(layer):
    """Returns whether blocks of 32 divide the inputs of such a layer."""
    return matrices(layer) and layer.kernel.shape[-2] % 32 == 0


# Scheme, whether data are given, and which layers are rounded.
ROWS = {
    "w8a8": ("w8a8", True, None),
    "w8": ("w8", False, None),
    "w4": ("w4", False, None),
    "w4, data": ("w4", True, None),
    "w4, depthwise w8": (DEPTHWISE, False, None),
    "w4, depthwise w8, data": (DEPTHWISE, True, None),
    "w4, matrices alone": ("w4", False, matrices),
    "w4, matrices alone, data": ("w4", True, matrices),
    "w4b32, matrices alone": ("w4b32", False, wide_matrices),
    "w4b32, matrices alone, data": ("w4b32", True, wide_matrices),
}
IN_FLOAT = ("w4, depthwise w8",)
RECIPES = ("dynamic_wi4_afp32", "weight_only_wi4_afp32")
CALLS, ROUNDS = 50, 15


def trained(job, train, folder):
    """Returns the float model of a job, trained once."""
    name = f"{job['model']}-{job['seed']}-{job['epochs']}-{len(train[0])}.keras"
    if (folder / name).exists():
        return keras.models.load_model(folder / name)
    keras.utils.set_random_seed(job["seed"])
    model = MODELS[job["model"]](keras)
    fit(keras, model, train, job["epochs"], RATE)
    fit(keras, model, train, max(job["epochs"] // 2, 1), RATE / 10)
    model.save(folder / name)
    return model


def rounded(model, row, samples):
    """Returns what a row makes of a float model, and the CPU seconds it took."""
    import tfcompress

    scheme, with_data, filters = ROWS[row]
    start = time.process_time()
    data = samples if with_data else None
    model = tfcompress.calibrate(model, data, scheme, filters)
    final = tfcompress.finalize(model)
    return final, time.process_time() - start


def files_of(model, samples, folder):
    """Returns the bytes of each row's file and the CPU seconds that made it."""
    from litert_quantizer import quantizer, recipe

    import tfcompress

    found = {}
    file = Path(folder) / "float.tflite"
    tfcompress.export(model, file)
    found["float"] = file.read_bytes(), 0.0
    for row in ROWS:
        final, seconds = rounded(model, row, samples)
        for compute in ("integer", "float") if row in IN_FLOAT else ("integer",):
            path = Path(folder) / f"{len(found)}.tflite"
            tfcompress.export(final, path, compute=compute)
            name = row if compute == "integer" else f"{row}, compute=float"
            found[name] = path.read_bytes(), seconds
    for name in RECIPES:
        start = time.process_time()
        made = quantizer.Quantizer(str(file), getattr(recipe, name)())
        content = bytes(made.quantize(None).quantized_model)
        found[f"litert-quantizer {name}"] = content, time.process_time() - start
    return found


def latencies(contents, sample):
    """Returns CPU milliseconds of one call of each file, medians of all rounds."""
    from ai_edge_litert.interpreter import Interpreter

    interpreters = {}
    for name, content in contents.items():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        index = interpreter.get_input_details()[0]["index"]
        interpreter.set_tensor(index, sample)
        interpreter.invoke()
        interpreters[name] = interpreter
    times = {name: [] for name in interpreters}
    for _ in range(ROUNDS):
        for name, interpreter in interpreters.items():
            start = time.process_time()
            for _ in range(CALLS):
                interpreter.invoke()
            times[name].append(1000 * (time.process_time() - start) / CALLS)
    return {name: statistics.median(found) for name, found in times.items()}


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--model", default="small-mobilenet")
    parser.add_argument("--epochs", type=int, default=8, help="half as many follow")
    arguments = parser.parse_args(argv)
    data = images(arguments.limit)
    test = data.x_test, data.y_test
    folder = models_folder(arguments.json)

    def run(job):
        model = trained(job, (data.x_train, data.y_train), folder)
        with tempfile.TemporaryDirectory() as made:
            files = files_of(model, data.x_train[:CALIBRATION_IMAGES], made)
        contents = {name: content for name, (content, _) in files.items()}
        took = latencies(contents, np.asarray(test[0][:1], "float32"))
        return {
            "rows": {
                name: {
                    "accuracy": accuracy(content, test),
                    "bytes": len(content),
                    "seconds": seconds,
                    "ms": took[name],
                }
                for name, (content, seconds) in files.items()
            }
        }

    jobs = [
        {
            "model": arguments.model,
            "seed": seed,
            "epochs": arguments.epochs,
            "limit": arguments.limit,
        }
        for seed in arguments.seeds
    ]
    results = run_jobs(jobs, run, arguments.json)
    table = Table("file", "accuracy, %", "points", "bytes", "x w8a8", "CPU s")
    for name in results[0]["rows"]:
        rows = [result["rows"] for result in results]
        table.add_row(
            name,
            spread([row[name]["accuracy"] for row in rows]),
            spread([row[name]["accuracy"] - row["float"]["accuracy"] for row in rows]),
            f"{rows[0][name]['bytes']:,}",
            f"{statistics.median(r[name]['ms'] / r['w8a8']['ms'] for r in rows):.2f}",
            f"{statistics.median(r[name]['seconds'] for r in rows):.2f}",
        )
    Console(width=110).print(table)
    return results


if __name__ == "__main__":
    main()
