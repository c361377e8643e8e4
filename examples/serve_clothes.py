"""Train and compress a small model, and publish it in a TF Serving model base.

This made `savedmodels/clothes` of the repository:

    python examples/serve_clothes.py savedmodels
"""

import sys
from pathlib import Path

import keras

import tfcompress
from tfcompress.datasets import ImageData, load_images
from tfcompress.exporters import ServingSignatures
from tfcompress.serving import versions, write_configuration

L = keras.layers
BATCH = 128


def build(shape: tuple[int, ...], classes: int) -> keras.Model:
    """A depthwise separable network of 22 000 parameters."""
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            L.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="stem"),
            L.BatchNormalization(name="stem_norm"),
            L.ReLU(name="stem_relu"),
            L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depth"),
            L.BatchNormalization(name="depth_norm"),
            L.ReLU(name="depth_relu"),
            L.Conv2D(32, 1, activation="relu", name="point"),
            L.MaxPooling2D(name="pool"),
            L.Conv2D(48, 3, padding="same", activation="relu", name="conv"),
            L.GlobalAveragePooling2D(name="mean"),
            L.Dense(96, activation="relu", name="hidden"),
            L.Dense(classes, name="logits"),
        ],
        name="clothes",
    )


def falling(rate: float, data: ImageData, epochs: int) -> keras.optimizers.Optimizer:
    """Adam whose learning rate falls to zero by the end of the fit."""
    steps = epochs * -(-len(data.x_train) // BATCH)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def main(output: str = "savedmodels", smoke: bool = False) -> tfcompress.Artifact:
    """Publishes the next version of `clothes` in `output` and returns it."""
    keras.utils.set_random_seed(7)
    data = load_images(limit=2000 if smoke else None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    model = build(data.image_shape, data.num_classes)
    epochs = 1 if smoke else 6
    model.compile(falling(4e-3, data, epochs), loss, metrics=["accuracy"])
    model.fit(data.x_train, data.y_train, BATCH, epochs=epochs, verbose=2)
    dense = model.evaluate(data.x_test, data.y_test, 500, verbose=0)[1]

    quantized = tfcompress.quantize_aware(model, "w8a8")
    epochs = 1 if smoke else 5
    quantized.compile(falling(2e-3, data, epochs), loss, metrics=["accuracy"])
    sparsity = tfcompress.PolynomialSparsity(0.0, 0.7)
    quantized.fit(
        *(data.x_train, data.y_train, BATCH),
        epochs=epochs,
        callbacks=[tfcompress.PruneWeights(sparsity)],
        verbose=2,
    )
    final = tfcompress.finalize(quantized)

    base = Path(output) / "clothes"
    server = tfcompress.export(
        final,
        base,
        format="saved_model",
        weights="compact",
        exact_integers=False,  # as fast as a float model, also in large batches
        signatures=ServingSignatures(data.class_names, top=3, image_scale=1 / 255),
        warm_up=data.x_test[:8],
        tflite=True,
    )
    samples = data.x_test[:1000]
    phone = tfcompress.Artifact.read(server.path / "model.tflite")
    tfcompress.verify(phone, final, samples, min_integer_coverage=1.0).raise_if_failed()
    (logits,) = phone.outputs
    parity = tfcompress.verify(
        server, final, samples, max_abs_error=logits.step, min_agreement=0.999
    ).raise_if_failed()
    accuracy = {
        path: float(
            (tfcompress.load(path)(data.x_test).argmax(-1) == data.y_test).mean()
        )
        for path in (server.path, phone.path)
    }

    write_configuration(output)
    (base / "labels.txt").write_text("\n".join(data.class_names) + "\n")
    (base / "report.md").write_text(
        f"# clothes, version {versions(base)[-1]}\n\n"
        f"{data.name.split(' (')[0]}: {len(data.x_train):,} training and "
        f"{len(data.x_test):,} test images. Rebuilt by "
        "`python examples/serve_clothes.py`.\n\n"
        "| | test accuracy | bytes |\n|---|---|---|\n"
        f"| trained, float32 | {dense:.2%} | "
        f"{4 * model.count_params():,} of weights |\n"
        f"| SavedModel (int8, 70 % sparse) | {accuracy[server.path]:.2%} | "
        f"{server.size - phone.size:,} |\n"
        f"| model.tflite beside it | {accuracy[phone.path]:.2%} | "
        f"{phone.size:,} |\n\n"
        f"SavedModel against the Keras model: {parity}.\n"
    )
    print((base / "report.md").read_text())
    return server


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--smoke"]
    main(*arguments, smoke="--smoke" in sys.argv)
