"""A student that is quantized and pruned while it is taught, in one fit."""

import keras
import numpy as np

from tests.distillation.test_distiller import compiled_loss
from tests.distillation.test_losses import conv_model
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.losses import Hint
from tfcompress.pruning.callback import PruneWeights
from tfcompress.quantization.quantize import quantize_aware
from tfcompress.schedules import ConstantSparsity


def test_one_fit_distils_prunes_and_quantizes(rng):
    x = rng.normal(size=(64, 4, 4, 1)).astype("float32")
    teacher = conv_model(16, 1)
    y = teacher.predict(x, verbose=0).argmax(-1)
    student = quantize_aware(conv_model(8, 2), "w8a8")
    hint = Hint("conv", "conv")
    distiller = Distiller(teacher, student, ["soft_labels", hint])
    distiller.compile(
        keras.optimizers.Adam(0.02), compiled_loss(), metrics=["accuracy"]
    )
    prune = PruneWeights(ConstantSparsity(0.5, frequency=2), scope="layer")
    history = distiller.fit(
        x, y, batch_size=16, epochs=3, verbose=0, callbacks=[prune]
    ).history
    assert history["distillation_loss"][-1] < history["distillation_loss"][0]
    kernels = [w.numpy() for w in student.trainable_variables if w.name == "kernel"]
    assert len(kernels) == 2
    assert all(np.mean(kernel == 0) == 0.5 for kernel in kernels)
    assert np.mean(hint.projection.kernel.numpy() == 0) == 0.0
    ours = distiller.evaluate(x, y, verbose=0, return_dict=True)
    student.compile("sgd", compiled_loss(), metrics=["accuracy"])
    theirs = student.evaluate(x, y, verbose=0, return_dict=True)
    assert abs(ours["loss"] - theirs["loss"]) < 1e-5
