"""Runs TFMOT, in a process of its own: importing it turns tf.keras into Keras 2.

    python _tfmot_worker.py QUESTIONS.npz ANSWERS.npz

QUESTIONS holds `plan` (JSON: the schedules and masks that are asked for) and the
weights; ANSWERS gets one array per question.
"""

import json
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

sparsity = tfmot.sparsity.keras


def schedule_values(kind, config, steps):
    """Returns rows of (is due, value) for each step."""
    schedule = getattr(sparsity, kind)(**config)
    answers = [schedule(tf.constant(step, tf.int64)) for step in steps]
    return np.array([[float(due), float(value)] for due, value in answers])


def layer_for(weights):
    if weights.ndim == 2:
        return tf_keras.layers.Dense(weights.shape[1]), (weights.shape[0],)
    height, width, inputs, filters = weights.shape
    return tf_keras.layers.Conv2D(filters, (height, width)), (8, 8, inputs)


def pruned_mask(weights, target):
    """Returns the mask that prune_low_magnitude gives a layer with `weights`."""
    layer, input_shape = layer_for(weights)
    model = sparsity.prune_low_magnitude(
        tf_keras.Sequential([layer]),
        pruning_schedule=sparsity.ConstantSparsity(target, begin_step=0, frequency=1),
        input_shape=(None, *input_shape),
    )
    model.build((None, *input_shape))
    (wrapper,) = model.layers
    ((kernel, mask, _),) = wrapper.pruning_vars
    kernel.assign(weights)
    wrapper.pruning_step.assign(0)
    wrapper.pruning_obj.conditional_mask_update()
    return mask.numpy()


def trained_kernels(weights, x, y, config, epochs):
    """Returns the kernel after a fit with PolynomialDecay, stripped."""
    layer = tf_keras.layers.Dense(weights.shape[1], use_bias=False)
    model = sparsity.prune_low_magnitude(
        tf_keras.Sequential([tf_keras.Input((weights.shape[0],)), layer]),
        pruning_schedule=sparsity.PolynomialDecay(**config),
    )
    model.layers[0].pruning_vars[0][0].assign(weights)
    model.compile(tf_keras.optimizers.legacy.SGD(0.05), "mse")
    model.fit(
        x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0,
        callbacks=[sparsity.UpdatePruningStep()],
    )  # fmt: skip
    return sparsity.strip_pruning(model).layers[-1].kernel.numpy()


def main(questions, answers):
    with np.load(questions) as given:
        plan = json.loads(str(given["plan"]))
        arrays = {name: given[name] for name in given.files if name != "plan"}
    found = {}
    for item in plan["schedules"]:
        found[item["key"]] = schedule_values(
            item["kind"], item["config"], item["steps"]
        )
    for item in plan["masks"]:
        found[item["key"]] = pruned_mask(arrays[item["weights"]], item["sparsity"])
    for item in plan["fits"]:
        found[item["key"]] = trained_kernels(
            *(arrays[name] for name in ("fit_weights", "fit_x", "fit_y")),
            item["config"],
            item["epochs"],
        )
    np.savez(answers, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
