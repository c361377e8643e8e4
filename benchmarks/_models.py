"""The models that are timed, for Keras 3 and tf_keras alike."""

import numpy as np

SHAPE = (28, 28, 1)
CLASSES = 10
BATCHES = 16


def lenet_300_100(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(SHAPE),
            layers.Flatten(),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


def lenet_5(keras):
    """LeNet-5 as in Deep Compression: 20-50-500-10, 431 080 weights."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(SHAPE),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


def small_resnet(keras, shape=SHAPE, strides=2):
    """Three residual stages with batch normalization, 16-32-64 channels.

    Args:
        keras: Keras 3 or tf_keras.
        shape: of an image.
        strides: of the first convolution.
    """
    layers = keras.layers

    def convolution(x, filters, size=3, strides=1):
        x = layers.Conv2D(
            filters, size, strides=strides, padding="same", use_bias=False
        )(x)
        # Keras' 0.99 lags behind in fits of some hundred steps.
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = layers.Input(shape)
    x = layers.ReLU()(convolution(inputs, 16, strides=strides))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        shortcut = x
        if strides > 1:
            shortcut = convolution(x, filters, size=1, strides=strides)
        y = layers.ReLU()(convolution(x, filters, strides=strides))
        y = convolution(y, filters)
        x = layers.ReLU()(layers.Add()([y, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def small_mobilenet(keras):
    """Depthwise separable blocks as in MobileNet, 16 to 128 channels, ReLU6."""
    layers = keras.layers

    def normalized(x):
        return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))

    inputs = layers.Input(SHAPE)
    convolution = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)
    x = normalized(convolution(inputs))
    for filters, strides in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        depthwise = layers.DepthwiseConv2D(
            3, strides=strides, padding="same", use_bias=False
        )
        x = normalized(depthwise(x))
        x = normalized(layers.Conv2D(filters, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def application(keras, name, border, **options):
    """Returns a model of `keras.applications` for the images in a border of zeros."""
    inputs = keras.layers.Input(SHAPE)
    padded = keras.layers.ZeroPadding2D(border)(inputs)
    colors = keras.layers.Concatenate()([padded] * 3)
    return getattr(keras.applications, name)(
        weights=None,
        input_tensor=colors,
        classes=CLASSES,
        classifier_activation=None,
        **options,
    )


def resnet50(keras):
    """ResNet50 for small images: 23.6 million weights, more than its steps compute."""
    return application(keras, "ResNet50", 2)


def mobilenet_v2_96(keras):
    """MobileNetV2 (alpha 0.35) for images of 96 x 96."""
    return application(keras, "MobileNetV2", 34, alpha=0.35)


MODELS = {
    "lenet-300-100": lenet_300_100,
    "lenet-5": lenet_5,
    "small-resnet": small_resnet,
    "small-mobilenet": small_mobilenet,
    "resnet50": resnet50,
    "mobilenet-v2-96": mobilenet_v2_96,
}
#: Those that are small enough to be the default.
SMALL = [name for name in MODELS if name not in ("resnet50", "mobilenet-v2-96")]


def images(batch):
    """Returns an endless data set of random images: time does not depend on them."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x = rng.uniform(size=(BATCHES, batch, *SHAPE)).astype("float32")
    y = rng.integers(0, CLASSES, (BATCHES, batch))
    return tf.data.Dataset.from_tensor_slices((x, y)).repeat()


def compiled(keras, model):
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
