"""Small models, one for each way in which channels can flow."""

import keras
import numpy as np
from keras import layers, ops

ZOO = {}


def member(function):
    ZOO[function.__name__] = function
    return function


def randomize(model, seed=0):
    """Gives every weight a value that a mistake would show in."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "variance" in variable.path:
            variable.assign(rng.uniform(0.5, 2.0, shape))
        elif variable.name in ("gamma", "scale"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) < 2 or variable.name == "bias":
            variable.assign(rng.normal(0, 0.3, shape))
        else:
            fan_in = max(1, np.prod(shape[:-1]))
            variable.assign(rng.normal(0, 1.5 / np.sqrt(fan_in), shape))
    return model


def make(name):
    """Returns a model of the zoo and inputs for it."""
    made = ZOO[name]()
    model = made if isinstance(made, keras.Model) else keras.Model(*made)
    randomize(model)
    rng = np.random.default_rng(1)
    inputs = [
        rng.integers(0, 20, (3, *t.shape[1:]))
        if "int" in t.dtype
        else rng.normal(size=(3, *t.shape[1:])).astype("float32")
        for t in keras.tree.flatten(model.inputs)
    ]
    return model, inputs[0] if len(inputs) == 1 else inputs


def head(x):
    return layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x))


@member
def plain():
    x = inputs = keras.Input((10, 10, 3))
    for i in range(2):
        x = layers.Conv2D(16, 3, strides=1 + i, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.MaxPooling2D()(layers.ZeroPadding2D()(x))
    return inputs, head(layers.Dropout(0.5)(x))


@member
def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Conv2D(12, 2),
            layers.Flatten(),
            layers.Dense(10, activation="tanh"),
            layers.Dense(4),
        ]
    )


@member
def residual():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, padding="same", name="stem")(inputs)
    for i in range(2):
        y = layers.Conv2D(8, 1, activation="relu", name=f"in{i}")(x)
        y = layers.Conv2D(12, 3, padding="same", name=f"out{i}")(y)
        y = layers.BatchNormalization()(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    return inputs, head(x)


@member
def dense_blocks():
    x = inputs = keras.Input((6, 6, 3))
    for i in range(3):
        y = layers.BatchNormalization()(x)
        y = layers.Conv2D(6, 3, padding="same", activation="relu", name=f"c{i}")(y)
        x = layers.Concatenate()([x, y])
    return inputs, layers.Dense(2, name="head")(layers.Flatten()(x))


@member
def squeeze_excite():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, activation="relu", name="conv")(inputs)
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(6, activation="relu", name="squeeze")(gate)
    gate = layers.Dense(12, activation="sigmoid", name="excite")(gate)
    gate = layers.Reshape((1, 1, 12))(gate)
    return inputs, head(layers.Multiply()([x, gate]))


@member
def depthwise():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1, name="expand")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    x = layers.PReLU(shared_axes=(1, 2))(x)
    x = layers.Conv2D(8, 1, name="project")(x)
    return inputs, head(layers.UpSampling2D()(layers.Cropping2D()(x)))


@member
def separable():
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, name="first")(inputs)
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, padding="same")(x)
    return inputs, head(x)


@member
def grouped_few():
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(12, 1, name="first")(inputs)
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    return inputs, head(x)


@member
def grouped_many():
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(16, 1, name="first")(inputs)
    x = layers.Conv2D(32, 3, groups=8, name="grouped")(x)
    return inputs, head(layers.LeakyReLU()(x))


@member
def generator():
    inputs = keras.Input((5,))
    x = layers.Dense(2 * 2 * 8, activation="relu", name="project")(inputs)
    x = layers.Reshape((2, 2, 8))(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="up")(x)
    return inputs, layers.Conv2D(1, 3, padding="same", name="image")(x)


@member
def one_dimension():
    inputs = keras.Input((12, 3))
    x = layers.Conv1D(8, 3, padding="causal", name="first")(inputs)
    x = layers.SeparableConv1D(6, 3)(layers.DepthwiseConv1D(2)(x))
    x = layers.MaxPooling1D()(layers.SpatialDropout1D(0.2)(x))
    x = layers.Conv1DTranspose(4, 2, name="up")(x)
    return inputs, layers.Dense(2, name="head")(layers.Flatten()(x))


@member
def three_dimensions():
    inputs = keras.Input((4, 4, 4, 2))
    x = layers.Conv3D(6, 2, name="first")(inputs)
    x = layers.Conv3DTranspose(4, 2, name="up")(layers.MaxPooling3D()(x))
    return inputs, layers.Dense(2)(layers.GlobalMaxPooling3D(keepdims=True)(x))


@member
def nested():
    inner_input = keras.Input((6, 6, 8))
    y = layers.Conv2D(8, 3, padding="same", name="inner_conv")(inner_input)
    inner = keras.Model(inner_input, layers.Add()([inner_input, y]), name="inner")
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, name="outer_conv")(inputs)
    return inputs, head(inner(x))


@member
def siamese():
    first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    shared = layers.Dense(8, activation="relu", name="shared")
    deeper = layers.Dense(10, name="deeper")
    x = layers.Subtract()([deeper(shared(first)), deeper(shared(second))])
    return [first, second], layers.Dense(1, name="head")(x)


@member
def two_outputs():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, name="trunk")(inputs)
    a = layers.Dense(2, name="a")(layers.Flatten()(x))
    b = layers.Conv2D(5, 1, name="b")(x)
    return inputs, {"a": a, "b": b}


@member
def lstm():
    inputs = keras.Input((5, 4))
    x = layers.LSTM(8, return_sequences=True, name="first")(inputs)
    return inputs, layers.Dense(2, name="head")(layers.LSTM(6, name="second")(x))


@member
def gru():
    inputs = keras.Input((5, 4))
    x = layers.GRU(8, return_sequences=True, name="first")(inputs)
    x = layers.SimpleRNN(6, return_sequences=True, name="second")(x)
    return inputs, layers.Dense(2, name="head")(layers.Flatten()(x))


@member
def encoder_decoder():
    inputs = keras.Input((5, 4))
    _, h, c = layers.LSTM(8, return_state=True, name="encoder")(inputs)
    x = layers.LSTM(8, return_sequences=True, name="decoder")(
        inputs, initial_state=[h, c]
    )
    return inputs, layers.TimeDistributed(layers.Dense(2), name="head")(x)


@member
def both_directions():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 8, name="table")(inputs)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True), name="both")(x)
    x = layers.Bidirectional(layers.GRU(4), merge_mode="sum", name="sum")(x)
    return inputs, layers.Dense(2, name="head")(x)


@member
def masked():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True, name="table")(inputs)
    x = layers.GRU(6, return_sequences=True, name="cells")(x)
    return inputs, layers.Dense(2, name="head")(layers.GlobalAveragePooling1D()(x))


@member
def over_time():
    inputs = keras.Input((3, 6, 6, 2))
    x = layers.TimeDistributed(layers.Conv2D(6, 3, activation="relu"), name="conv")(
        inputs
    )
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.TimeDistributed(layers.Dense(8), name="dense")(x)
    return inputs, layers.Dense(2, name="head")(layers.GlobalMaxPooling1D()(x))


@member
def attention():
    inputs = keras.Input((5, 6))
    x = layers.Dense(8, name="embed")(inputs)
    y = layers.MultiHeadAttention(4, 3, value_dim=2, name="attend")(x, x)
    x = layers.Add()([x, y])
    return inputs, layers.Dense(2, name="head")(layers.GlobalAveragePooling1D()(x))


@member
def einsum():
    inputs = keras.Input((5, 6))
    x = layers.EinsumDense("abc,cde->abde", (None, 4, 3), bias_axes="de", name="q")(
        inputs
    )
    x = layers.EinsumDense("abde,deo->abo", (None, 8), bias_axes="o", name="o")(x)
    x = layers.EinsumDense("...x,xy->...y", 6, bias_axes="y", name="dots")(x)
    return inputs, layers.Dense(2, name="head")(x)


@member
def mixer():
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, name="embed")(inputs)
    y = layers.Permute((2, 1))(x)
    y = layers.Dense(10, activation="relu", name="tokens_in")(y)
    y = layers.Dense(6, name="tokens_out")(y)
    x = layers.Average()([x, layers.Permute((2, 1))(y)])
    return inputs, layers.Dense(2, name="head")(layers.Flatten()(x))


@member
def functions():
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, name="first")(inputs)
    x = ops.relu(x * 2.0 + 0.1)
    a, b = ops.split(x, 2, axis=-1)
    x = ops.concatenate([ops.sigmoid(a), ops.maximum(a, b)], axis=-1)
    x = ops.transpose(ops.expand_dims(x, 1), (0, 2, 1, 3))
    x = ops.squeeze(x, 2)[:, 1:, :]
    x = ops.reshape(x, (-1, 5 * 8))
    y = layers.Dense(6, name="second")(x)
    return inputs, layers.Dense(2, name="head")(
        y - ops.mean(inputs, axis=(1, 2))[:, None]
    )


@member
def hand_made_attention():
    inputs = keras.Input((5, 6))
    q, k, v = (layers.Dense(12, name=n)(inputs) for n in "qkv")

    def heads(x):
        return ops.transpose(ops.reshape(x, (-1, 5, 3, 4)), (0, 2, 1, 3))

    scores = ops.softmax(ops.matmul(heads(q), ops.transpose(heads(k), (0, 1, 3, 2))))
    x = ops.einsum("bhqk,bhkd->bqhd", scores, heads(v))
    x = layers.Reshape((5, 12))(x)
    return inputs, layers.Dense(2, name="head")(x)


@member
def shuffle():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(12, 1, name="first")(inputs)
    x = layers.Reshape((4, 4, 2, 6))(x)
    x = layers.Reshape((4, 4, 12))(layers.Permute((1, 2, 4, 3))(x))
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    return inputs, head(x)


# In these, what goes changes the statistics of what remains.
MIXING = {"transformer", "group_norm"}


@member
def transformer():
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 16, name="table")(tokens)
    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(2, 8, name="attend")(y, y)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization(rms_scaling=False)(x)
    y = layers.Dense(32, activation="gelu", name="wide")(y)
    x = layers.Add()([x, layers.Dense(16, name="narrow")(y)])
    return tokens, layers.Dense(2, name="head")(layers.GlobalAveragePooling1D()(x))


@member
def group_norm():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(16, 3, name="first")(inputs)
    x = layers.GroupNormalization(4)(x)
    x = layers.Conv2D(8, 1, name="second")(x)
    return inputs, head(layers.GroupNormalization(-1)(x))
