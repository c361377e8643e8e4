"""Distil, prune and quantize in one fit; ship to a phone and to a server."""

import os
import sys
from pathlib import Path

import keras
import tensorflow as tf

import tfcompress
from tfcompress.datasets import load_images
from tfcompress.demo import build_student, build_teacher


def main(smoke: bool = False, output: str = "prune_quantize_distill") -> Path:
    """Runs the README's story on real images and returns where the files are."""
    keras.utils.set_random_seed(1)
    data = load_images(limit=4000 if smoke else None)
    train = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    train = train.shuffle(len(data.x_train), seed=1).batch(128)
    samples = data.x_test[:1000]
    shape, classes = data.x_train.shape[1:], len(data.class_names)

    teacher = build_teacher(shape, classes)
    teacher.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    teacher.fit(train, epochs=1 if smoke else 4)
    student = build_student(shape, classes)

    folder = Path(output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    # fmt: off
    # The story of the README, word for word.
    student = tfcompress.quantize_aware(student, "w8a8")
    distiller = tfcompress.Distiller(teacher, student, keras.distillation.LogitsDistillation(3.0))
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    distiller.fit(train, epochs=10, callbacks=[tfcompress.PruneWeights(tfcompress.PolynomialSparsity(0.0, 0.8))])

    deployable = tfcompress.finalize(distiller.student)
    phone  = tfcompress.export(deployable, "student.tflite")
    server = tfcompress.export(deployable, "savedmodels/student/1", format="saved_model")
    tfcompress.verify(phone, deployable, samples, min_integer_coverage=1.0).raise_if_failed()
    print(tfcompress.report(teacher, phone, server).to_markdown())
    # fmt: on
    return folder


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
