"""Distil, prune and quantize in one fit; ship to a phone and to a server."""

import os
import sys
from pathlib import Path

import keras

import tfcompress
from tfcompress.datasets import load_images
from tfcompress.demo import build_student, build_teacher


def main(smoke: bool = False, output: str = "prune_quantize_distill") -> Path:
    """Runs the README's story on real images and returns where the files are."""
    keras.utils.set_random_seed(1)
    data = load_images(limit=1000 if smoke else 10_000)
    x, y = data.x_train, data.y_train
    samples, labels = data.x_test[:1000], data.y_test[:1000]
    shape, classes = data.x_train.shape[1:], len(data.class_names)

    teacher = build_teacher(shape, classes)
    teacher.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    teacher.fit(x, y, batch_size=128, epochs=1 if smoke else 4)
    student = build_student(shape, classes)

    def accuracy(predict):
        return float((predict(samples).argmax(-1) == labels).mean())

    folder = Path(output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    # fmt: off
    # The story of the README, word for word.
    student = tfcompress.quantize_aware(student, "w8a8")
    distiller = tfcompress.Distiller(teacher, student, keras.distillation.LogitsDistillation(3.0))
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    zeros = tfcompress.PolynomialSparsity(0.0, 0.8)
    distiller.fit(x, y, epochs=30, verbose=0, callbacks=[tfcompress.PruneWeights(zeros, "lamp", scope="global")])

    deployable = tfcompress.finalize(distiller.student)
    phone  = tfcompress.export(deployable, "student.tflite")
    server = tfcompress.export(deployable, "savedmodels/student/1", format="saved_model")
    tfcompress.verify(phone, deployable, samples, min_integer_coverage=1.0).raise_if_failed()
    print(tfcompress.report(teacher, phone, server, evaluate=accuracy).to_markdown())
    # fmt: on
    return folder


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
