"""Distil a network into a tree one can read; run the teacher only once."""

import sys
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from tfcompress.datasets import load_images
from tfcompress.distillation import Distiller, SoftDecisionTree, cache_teacher


def main(smoke: bool = False, output: str = "distill_tree") -> dict[str, float]:
    """Prints the accuracies of teacher, tree alone and taught tree; returns them."""
    keras.utils.set_random_seed(1)
    data = load_images(limit=2000 if smoke else None)
    epochs = 2 if smoke else 15
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    batches = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    batches = batches.batch(64)

    def fit(model, train, rate=3e-3):
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        model.fit(train.shuffle(100, seed=1), epochs=epochs, verbose=0)
        return model.evaluate(data.x_test, data.y_test, verbose=0, return_dict=True)

    def tree():
        keras.utils.set_random_seed(2)
        return SoftDecisionTree(depth=4 if smoke else 7, num_classes=data.num_classes)

    teacher = keras.Sequential(
        [
            keras.Input(data.image_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(data.num_classes),
        ]
    )
    found = {"teacher": fit(teacher, batches, 1e-3), "tree": fit(tree(), batches, 1e-2)}
    taught = tree()
    with tempfile.TemporaryDirectory() as folder:
        cached = cache_teacher(teacher, batches, folder)
        distiller = Distiller(teacher, taught, "soft_labels", student_loss_weight=0.2)
        found["taught tree"] = fit(distiller, cached, 1e-2)

    accuracies = {name: logs["accuracy"] for name, logs in found.items()}
    for name, accuracy in accuracies.items():
        print(f"{name}: {100 * accuracy:.2f} %")
    path = Path(output)
    path.mkdir(parents=True, exist_ok=True)
    taught.save(path / "tree.keras")
    names = data.class_names
    rules = taught.rules(terms=2, class_names=names)
    (path / "rules.txt").write_text(rules, encoding="utf-8")
    image, label = data.x_test[0], names[data.y_test[0]]
    taught.plot_path(image, str(path / "path.png"), names)
    print(f"the way of the first test image ({label}): {taught.path(image)}")
    print(f"tree.keras, rules.txt and path.png are in {path}")
    return accuracies


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
