"""The TFMOT side of step_time.py, in a process of its own (Keras 2).

Reads one JSON request a line from stdin and answers with one JSON line:
`{"open": model, ...}` makes the variants, `{"epoch": variant}` trains one epoch.
"""

import json
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow_model_optimization as tfmot
import tf_keras
from _models import MODELS, compiled, images
from _rounds import Fit

sparsity = tfmot.sparsity.keras


def pruned(model, steps):
    schedule = sparsity.PolynomialDecay(0.0, 0.8, 0, steps - 1, frequency=100)
    return sparsity.prune_low_magnitude(model, pruning_schedule=schedule)


def variants(make, x, y, options):
    """Returns the open fits of one model by name."""
    total = options["steps"] * options["epochs"]
    made = {
        "plain": (make(), []),
        "prune": (pruned(make(), total), [sparsity.UpdatePruningStep()]),
        "qat": (tfmot.quantization.keras.quantize_model(make()), []),
    }

    def opened(model, callbacks):
        compiled(tf_keras, model)

        def run(turn):
            model.fit(
                x,
                y,
                batch_size=options["batch"],
                epochs=options["epochs"],
                verbose=0,
                callbacks=[*callbacks, turn],
            )

        return Fit(run, tf_keras.callbacks.Callback)

    return {name: opened(*made[name]) for name in made if name in options["variants"]}


def main():
    answers, sys.stdout = sys.stdout, sys.stderr
    fits = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "open" in request:
            x, y = images(request["steps"] * request["batch"])
            fits = variants(
                lambda name=request["open"]: MODELS[name](tf_keras), x, y, request
            )
            answer = sorted(fits)
        else:
            answer = fits[request["epoch"]].epoch()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
