"""Accuracy after one-shot pruning, without training: least squares against magnitude.

    python benchmarks/reconstruct_accuracy.py
    python benchmarks/reconstruct_accuracy.py --models lenet-5 --images 256

A dense model is trained on Fashion-MNIST and pruned in one go to each sparsity: by
cutting the smallest weights of each kernel, and by `reconstruct` with some unlabelled
training images. Figures are per cent of the test images.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from _models import MODELS, SMALL, compiled
from rich.console import Console
from rich.table import Table

from tfcompress.datasets import load_images
from tfcompress.layers import model_kernels
from tfcompress.pruning.reconstruction import reconstruct


def accuracy(model, data):
    scores = model.predict(data.x_test, batch_size=1000, verbose=0)
    return float(np.mean(scores.argmax(-1) == data.y_test))


def cut(model, sparsity):
    """Returns a copy without the smallest weights of each kernel."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for _, _, variable in model_kernels(copy):
        values = variable.numpy()
        limit = np.quantile(np.abs(values), sparsity)
        variable.assign(np.where(np.abs(values) > limit, values, 0.0))
    return copy


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=SMALL)
    parser.add_argument(
        "--sparsities", nargs="+", type=float, default=[0.5, 0.7, 0.8, 0.9]
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1024, help="calibration images")
    parser.add_argument("--limit", type=int, help="train on so many images only")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args(argv)
    data = load_images(arguments.limit)
    table = Table("model", "sparsity", "magnitude", "reconstruct", "seconds")
    results = {}
    for name in arguments.models:
        keras.utils.set_random_seed(0)
        model = compiled(keras, MODELS[name](keras))
        model.fit(
            data.x_train,
            data.y_train,
            batch_size=128,
            epochs=arguments.epochs,
            verbose=0,
        )
        dense = accuracy(model, data)
        results[f"{name} dense"] = dense
        table.add_row(name, "dense", f"{dense:.2%}", "", "")
        few = data.x_train[: arguments.images]
        for sparsity in arguments.sparsities:
            began = time.process_time()
            solved = accuracy(reconstruct(model, few, sparsity), data)
            seconds = time.process_time() - began
            plain = accuracy(cut(model, sparsity), data)
            results[f"{name} {sparsity}"] = [plain, solved, seconds]
            row = f"{plain:.2%}", f"{solved:.2%}", f"{seconds:.0f}"
            table.add_row(name, f"{sparsity:.0%}", *row)
        table.add_section()
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
