"""One small fit for each technique, and for all of them together.

For benchmarks and tests that ask the same of every technique: that replicas agree, that
a killed run goes on, that it holds under another arithmetic.
"""

import keras
import numpy as np

import tfcompress

EPOCHS, STEPS, BATCH = 4, 6, 8
_IMAGES = (6, 6, 2)


def data():
    """Returns samples and labels."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(STEPS * BATCH, *_IMAGES)).astype("float32")
    return x, generator.integers(0, 3, len(x))


def network(seed=0, stateful=False):
    """Returns an untrained convolutional network.

    Args:
        seed: of its weights.
        stateful: whether it has layers that change in training by themselves:
            BatchNormalization, which sees only the batch of its replica, and Dropout.
    """
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input(_IMAGES, name="images"),
        keras.layers.Conv2D(8, 3, use_bias=not stateful, name="conv"),
        keras.layers.BatchNormalization(name="norm") if stateful else None,
        keras.layers.ReLU(name="relu"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dropout(0.2, seed=seed, name="dropout") if stateful else None,
        keras.layers.Dense(3, name="logits"),
    ]
    return keras.Sequential([layer for layer in layers if layer is not None])


def _prune(**options):
    schedule = tfcompress.PolynomialSparsity(0.0, 0.75, frequency=2)
    return tfcompress.PruneWeights(schedule, **options)


def _cluster():
    return tfcompress.ClusterWeights(6, begin_step=0.4)


def _distilled(student):
    loss = keras.distillation.LogitsDistillation(temperature=2.0)
    return tfcompress.Distiller(network(seed=7), student, loss)


def _same(model):
    return model


# What becomes of the network, and which callbacks train it.
TECHNIQUES = {
    "plain": (_same, list),
    "prune": (_same, lambda: [_prune()]),
    "prune globally": (_same, lambda: [_prune(scope="global")]),
    "prune by gradients": (_same, lambda: [_prune(criterion="taylor")]),
    "prune by GraSP": (_same, lambda: [_prune(criterion="grasp", scope="global")]),
    "train sparse": (
        _same,
        lambda: [tfcompress.SparseTraining(0.5, frequency=2)],
    ),
    "train sparse by lot": (
        _same,
        lambda: [tfcompress.SparseTraining(0.5, method="set", frequency=2)],
    ),
    "penalize": (_same, lambda: [tfcompress.PenalizeWeights(0.3)]),
    "prune channels": (
        _same,
        lambda: [
            tfcompress.PruneChannels(
                tfcompress.PolynomialSparsity(0.0, 0.5, frequency=2), round_to=1
            )
        ],
    ),
    "cluster": (_same, lambda: [_cluster()]),
    "quantize": (tfcompress.quantize_aware, list),
    "quantize and freeze": (
        tfcompress.quantize_aware,
        lambda: [tfcompress.FreezeQuantization(ranges_at_epoch=2)],
    ),
    "distil": (_distilled, list),
    "all together": (
        lambda network: _distilled(tfcompress.quantize_aware(network)),
        lambda: [
            _prune(),
            _cluster(),
            tfcompress.FreezeQuantization(ranges_at_epoch=3),
        ],
    ),
}


def prepare(technique, optimizer=None, stateful=False, **compile_options):
    """Returns a compiled model, and the callbacks to fit it with.

    Args:
        technique: one of `TECHNIQUES`.
        optimizer: Adam by default.
        stateful: see `network`.
        **compile_options: for `compile`.
    """
    change, callbacks = TECHNIQUES[technique]
    model = change(network(stateful=stateful))
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **{"metrics": ["accuracy"], **compile_options},
    )
    # Or the first step is traced twice.
    model.optimizer.build(model.trainable_variables)
    return model, callbacks()
