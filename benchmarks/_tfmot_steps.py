"""The TFMOT side of step_time.py, in a process of its own (Keras 2).

Reads one JSON request a line from stdin and answers with one JSON line:
`{"open": model, ...}` makes the variants, `{"advance": variant}` trains for one turn.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow_model_optimization as tfmot
import tf_keras
from _jobs import answer_jobs
from _models import MODELS, compiled
from _rounds import open_fit

sparsity = tfmot.sparsity.keras


def pruned(model, steps):
    schedule = sparsity.PolynomialDecay(0.0, 0.8, 0, steps - 1, frequency=100)
    return sparsity.prune_low_magnitude(model, pruning_schedule=schedule)


def clustered(model):
    keras = tfmot.clustering.keras
    start = keras.CentroidInitialization.KMEANS_PLUS_PLUS
    return keras.cluster_weights(
        model, number_of_clusters=16, cluster_centroids_init=start
    )


def quantized(model):
    return tfmot.quantization.keras.quantize_model(model)


def variants(make, options):
    """Returns the open fits of one model by name."""
    total = options["steps"] * options["rounds"]
    made = {
        "plain": lambda: (make(), []),
        "prune": lambda: (pruned(make(), total), [sparsity.UpdatePruningStep()]),
        "qat": lambda: (quantized(make()), []),
        "cluster": lambda: (clustered(make()), []),
    }
    fits = {}
    for name in options["variants"]:
        model, callbacks = made[name]()
        compiled(tf_keras, model)
        fits[name] = open_fit(model, callbacks, options, tf_keras.callbacks.Callback)
    return fits


def main():
    fits = {}

    def answer(request):
        if "open" not in request:
            return fits[request["advance"]].advance()
        make = MODELS[request["open"]]
        fits.update(variants(lambda: make(tf_keras), request))
        return sorted(fits)

    answer_jobs(answer)


if __name__ == "__main__":
    main()
