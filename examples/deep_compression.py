"""Deep Compression's three stages on its two networks: prune, share, entropy-code.

python examples/deep_compression.py
python examples/deep_compression.py --smoke
"""

import dataclasses
import math
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tfcompress
from tfcompress.datasets import load_images

BATCH = 128


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One stage after the other: train, prune, share and quantize.

    Attributes:
        epochs: of the three stages.
        rates: learning rate that each stage begins with; all end at zero (cosine).
            What is left of a pruned network needs a higher one than a dense network.
        sparsity: of all kernels together.
        clusters: values of a kernel, zero included.
        temperature, student_loss_weight: of distillation, in the last two stages.
    """

    epochs: tuple[int, int, int] = (8, 30, 20)
    rates: tuple[float, float, float] = (1e-3, 3e-3, 1e-3)
    sparsity: float = 0.942
    clusters: int = 8
    temperature: float = 3.0
    student_loss_weight: float = 0.2


def lenet_300_100(shape, classes):
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(300, activation="relu", name="fc1"),
            keras.layers.Dense(100, activation="relu", name="fc2"),
            keras.layers.Dense(classes, name="fc3"),
        ],
        name="lenet_300_100",
    )


def lenet_5(shape, classes):
    """LeNet-5 in the widths of the paper: 20-50-500, 431 080 weights."""
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            keras.layers.Conv2D(20, 5, activation="relu", name="conv1"),
            keras.layers.MaxPooling2D(name="pool1"),
            keras.layers.Conv2D(50, 5, activation="relu", name="conv2"),
            keras.layers.MaxPooling2D(name="pool2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(500, activation="relu", name="fc1"),
            keras.layers.Dense(classes, name="fc2"),
        ],
        name="lenet_5",
    )


def teacher_network(shape, classes):
    """A convolutional net whose outputs say more than the labels do."""
    net = [keras.Input(shape, name="image"), keras.layers.RandomFlip("horizontal")]
    for filters in (32, 64, 128):
        net += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    net += [keras.layers.Flatten(), keras.layers.Dropout(0.5)]
    return keras.Sequential([*net, keras.layers.Dense(classes)], name="teacher")


def with_mirror_images(teacher):
    """Returns a teacher whose answer is the mean for an image and its mirror image."""
    image = keras.Input(teacher.input_shape[1:], name="image")
    mirrored = keras.ops.flip(image, axis=2)
    mean = keras.layers.Average()([teacher(image), teacher(mirrored)])
    return keras.Model(image, mean, name="teacher_with_mirror_images")


# An epoch of LeNet-5 costs eight times as much as one of LeNet-300-100, and the dense
# network needs few.
RECIPES = {
    lenet_300_100: Recipe(),
    lenet_5: Recipe(epochs=(4, 30, 20), sparsity=0.937),
    teacher_network: Recipe(epochs=(14, 0, 0), rates=(3e-3, 0.0, 0.0)),
}


def fit(model, train, steps, stage, recipe, *callbacks):
    """Trains one stage of a recipe."""
    epochs, rate = recipe.epochs[stage], recipe.rates[stage]
    decay = keras.optimizers.schedules.CosineDecay(rate, steps * epochs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Several steps in one call cost less, and compute the same.
    at_once = next(n for n in range(10, 0, -1) if steps % n == 0)
    model.compile(keras.optimizers.Adam(decay), loss, steps_per_execution=at_once)
    model.fit(
        train,
        epochs=epochs,
        steps_per_epoch=steps,
        verbose=0,
        shuffle=False,
        callbacks=list(callbacks),
    )
    return model


def batches(samples, size):
    """Returns endless shuffled batches of samples, which are held in memory."""
    every = samples.batch(size).get_single_element()

    def gathered(indices):
        return tf.nest.map_structure(lambda part: tf.gather(part, indices), every)

    # Shuffling numbers costs less than shuffling images.
    order = tf.data.Dataset.range(size).shuffle(size).repeat().batch(BATCH)
    return order.map(gathered).prefetch(2)


def train_dense(model, data, recipe, stages=(0, 1, 2)):
    """Trains a network with the epochs and rates of a recipe, and nothing else."""
    samples = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    train = batches(samples, len(data.x_train))
    for stage in stages:
        fit(model, train, math.ceil(len(data.x_train) / BATCH), stage, recipe)
    return model


class Lessons:
    """Fits students to the outputs of a teacher, which runs once.

    Args:
        teacher: a model.
        data: the images.
        recipe: rates, epochs, and how to distil.
        cache: folder for the teacher's outputs.
    """

    def __init__(self, teacher, data, recipe, cache):
        self.teacher, self.recipe = teacher, recipe
        size = len(data.x_train)
        self.steps = math.ceil(size / BATCH)
        samples = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
        # The teacher's outputs travel with the images.
        taught = tfcompress.cache_teacher(teacher, samples.batch(500), cache)
        self.train = batches(taught.unbatch(), size)

    def fit(self, student, stage, *callbacks):
        """Trains one stage of the recipe."""
        recipe = self.recipe
        distiller = tfcompress.Distiller(
            self.teacher,
            student,
            keras.distillation.LogitsDistillation(recipe.temperature),
            student_loss_weight=recipe.student_loss_weight,
        )
        fit(distiller, self.train, self.steps, stage, recipe, *callbacks)


def compress_network(model, lessons):
    """Prunes, shares and quantizes a trained network; returns it as it is deployed."""
    recipe = lessons.recipe
    grow = tfcompress.PolynomialSparsity(0.0, recipe.sparsity, end_step=0.4)
    lessons.fit(model, 1, tfcompress.PruneWeights(grow, scope="global"))

    # One scale per kernel, so that shared values are the same integers everywhere.
    scheme = tfcompress.QuantizationScheme(tfcompress.UniformQuantizer(8, "tensor"))
    student = tfcompress.quantize_aware(model, scheme)
    share = tfcompress.ClusterWeights(recipe.clusters, members="trained")
    last = max(recipe.epochs[2] - 2, 1)
    freeze = tfcompress.FreezeQuantization(ranges_at_epoch=last)
    lessons.fit(student, 2, share, freeze)
    return tfcompress.finalize(student)


def accuracy(model, data):
    """Returns the share of test images that a model or runner gets right."""
    predict = model if not isinstance(model, keras.Model) else model.predict_on_batch
    found = np.concatenate(
        [
            np.argmax(predict(data.x_test[start : start + 1000]), axis=-1)
            for start in range(0, len(data.x_test), 1000)
        ]
    )
    return float(np.mean(found == data.y_test))


def main(smoke: bool = False, output: str = "deep_compression") -> dict[str, dict]:
    """Prints the paper's table for both networks; returns sizes and accuracies."""
    data = load_images(limit=1000 if smoke else None)
    recipes = RECIPES
    if smoke:
        recipes = dict.fromkeys(RECIPES, Recipe(epochs=(1, 2, 1), sparsity=0.9))
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(1)
    teacher = teacher_network(data.image_shape, data.num_classes)
    train_dense(teacher, data, recipes[teacher_network], stages=(0,))
    teacher = with_mirror_images(teacher)
    results = {}
    for make in (lenet_300_100, lenet_5):
        model = make(data.image_shape, data.num_classes)
        train_dense(model, data, recipes[make], stages=(0,))
        lessons = Lessons(teacher, data, recipes[make], folder / "teacher")
        final = compress_network(model, lessons)
        path = folder / f"{model.name}.tflite"
        artifact = tfcompress.export(final, path, overwrite=True)
        check = tfcompress.verify(artifact, final, data.x_test[:500])
        check.raise_if_failed()
        packed = tfcompress.pack(artifact, path.with_suffix(".tfc"), overwrite=True)
        original = 4 * model.count_params()
        results[model.name] = {
            "accuracy": accuracy(tfcompress.load(artifact), data),
            "original": original,
            "gzip": artifact.gzip_size,
            "packed": packed.size,
        }
        print(f"{model.name}: {original:,} bytes of weights in float32")
        print(tfcompress.storage(artifact))
        ratio = original / packed.size
        print(f"packed {ratio:.1f}x, gzip {original / artifact.gzip_size:.1f}x")
        print(f"accuracy {results[model.name]['accuracy']:.2%}\n")
    return results


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
