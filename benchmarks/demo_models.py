"""How are the trained models made that `tfcompress demo` begins with?

    python benchmarks/demo_models.py

Trains the demo's teacher and student on the 60 000 training images of Fashion-MNIST,
with shifts and flips, and a rate that falls to zero, and writes their weights beside
tfcompress/demo/models.py. Nothing is chosen on the test images; the accuracies that it
prints are those of the weights as they are stored. The hashes that it prints belong
into models.py. Arithmetic differs between processors, so hashes of a second run do too.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

from tfcompress.datasets import load_images
from tfcompress.demo import models


def moved(images, labels):
    """Shifts a batch by up to two pixels, and flips half of its images."""
    images = tf.image.random_crop(
        tf.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))), tf.shape(images)
    )
    return tf.image.random_flip_left_right(images), labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path(models.__file__).parent)
    parser.add_argument("--teacher-epochs", type=int, default=14)
    parser.add_argument("--student-epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="of training images, to try this out")
    options = parser.parse_args()
    data = load_images(options.limit)
    batches = (
        tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
        .shuffle(len(data.x_train), seed=0)
        .batch(128)
        .map(moved)
        .prefetch(2)
    )
    for build, epochs in (
        (models.build_student, options.student_epochs),
        (models.build_teacher, options.teacher_epochs),
    ):
        keras.utils.set_random_seed(0)
        model = build(data.image_shape, data.num_classes)
        rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(batches))
        model.compile(
            keras.optimizers.Adam(rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(batches, epochs=epochs, shuffle=False, verbose=2)
        path = options.directory / f"{model.name}.npz"
        digest = models.write_weights(model, path)
        models.set_weights(model, path.read_bytes())
        answers = model.predict(data.x_test, verbose=0).argmax(-1)
        right = 100 * np.mean(answers == data.y_test)
        size = path.stat().st_size
        print(f"{model.name}: {right:.2f} %, {size:,} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main()
