"""A small model around each layer of Keras, for tests that ask something of all."""

import keras

L = keras.layers

VECTOR, SEQUENCE, IMAGE, VOLUME = (6,), (6, 4), (8, 8, 3), (4, 4, 4, 2)
TABULAR = ("int32", (3,))
# What a layer is called on, and made with. Layers that stand in none of the two are
# bases of others, or make no sense on their own.
MADE: dict[str, tuple] = {
    **dict.fromkeys(("Activation",), (VECTOR, {"activation": "relu"})),
    **dict.fromkeys(
        (
            *("ActivityRegularization", "ELU", "Identity", "LeakyReLU"),
            *("PReLU", "ReLU", "Softmax", "Flatten", "BatchNormalization"),
            *("LayerNormalization", "RMSNormalization", "UnitNormalization"),
        ),
        (VECTOR, {}),
    ),
    **dict.fromkeys(
        ("Dropout", "GaussianDropout", "AlphaDropout"), (VECTOR, {"rate": 0.1})
    ),
    "GaussianNoise": (VECTOR, {"stddev": 0.1}),
    "SpatialDropout1D": (SEQUENCE, {"rate": 0.1}),
    "SpatialDropout2D": (IMAGE, {"rate": 0.1}),
    "SpatialDropout3D": (VOLUME, {"rate": 0.1}),
    "Dense": (VECTOR, {"units": 3}),
    "EinsumDense": (SEQUENCE, {"equation": "abc,cd->abd", "output_shape": (None, 5)}),
    "Embedding": (TABULAR, {"input_dim": 2, "output_dim": 4}),
    "GroupNormalization": (IMAGE, {"groups": 1}),
    "Conv1D": (SEQUENCE, {"filters": 3, "kernel_size": 2}),
    "Conv2D": (IMAGE, {"filters": 3, "kernel_size": 2}),
    "Conv3D": (VOLUME, {"filters": 3, "kernel_size": 2}),
    "Conv1DTranspose": (SEQUENCE, {"filters": 3, "kernel_size": 2}),
    "Conv2DTranspose": (IMAGE, {"filters": 3, "kernel_size": 2}),
    "Conv3DTranspose": (VOLUME, {"filters": 3, "kernel_size": 2}),
    "DepthwiseConv1D": (SEQUENCE, {"kernel_size": 2}),
    "DepthwiseConv2D": (IMAGE, {"kernel_size": 2}),
    "SeparableConv1D": (SEQUENCE, {"filters": 3, "kernel_size": 2}),
    "SeparableConv2D": (IMAGE, {"filters": 3, "kernel_size": 2}),
    **{
        f"{kind}Pooling{n}D": (shape, {"pool_size": 2})
        for kind in ("Max", "Average")
        for n, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME))
    },
    **{
        f"Global{kind}Pooling{n}D": (shape, {})
        for kind in ("Max", "Average")
        for n, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME))
    },
    **{
        f"Adaptive{kind}Pooling{n}D": (shape, {"output_size": 2})
        for kind in ("Max", "Average")
        for n, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME))
    },
    "ZeroPadding1D": (SEQUENCE, {}),
    "ZeroPadding2D": (IMAGE, {}),
    "ZeroPadding3D": (VOLUME, {}),
    "Cropping1D": (SEQUENCE, {}),
    "Cropping2D": (IMAGE, {}),
    "Cropping3D": (VOLUME, {}),
    "UpSampling1D": (SEQUENCE, {}),
    "UpSampling2D": (IMAGE, {}),
    "UpSampling3D": (VOLUME, {}),
    "Permute": (SEQUENCE, {"dims": (2, 1)}),
    "RepeatVector": (VECTOR, {"n": 3}),
    "Reshape": (VECTOR, {"target_shape": (2, 3)}),
    "Masking": (SEQUENCE, {}),
    "GRU": (SEQUENCE, {"units": 3}),
    "LSTM": (SEQUENCE, {"units": 3}),
    "SimpleRNN": (SEQUENCE, {"units": 3}),
    "ConvLSTM1D": ((3, 6, 2), {"filters": 3, "kernel_size": 2}),
    "ConvLSTM2D": ((3, 5, 5, 2), {"filters": 3, "kernel_size": 2}),
    "ConvLSTM3D": ((3, *VOLUME), {"filters": 3, "kernel_size": 2}),
    "Rescaling": (IMAGE, {"scale": 0.5}),
    "Resizing": (IMAGE, {"height": 4, "width": 4}),
    "CenterCrop": (IMAGE, {"height": 4, "width": 4}),
    "Normalization": (VECTOR, {"mean": 0.5, "variance": 2.0}),
    "Discretization": (VECTOR, {"bin_boundaries": [0.0, 0.5]}),
    "CategoryEncoding": (TABULAR, {"num_tokens": 2}),
    "IntegerLookup": (TABULAR, {"vocabulary": [0, 1]}),
    "Hashing": (TABULAR, {"num_bins": 3}),
    "STFTSpectrogram": ((128, 1), {"mode": "magnitude", "frame_length": 32}),
    "MelSpectrogram": (
        (128,),
        {"fft_length": 32, "sequence_stride": 16, "num_mel_bins": 8},
    ),
    **{
        f"Random{name}": (IMAGE, arguments)
        for name, arguments in {
            "Brightness": {"factor": 0.1},
            "ColorDegeneration": {"factor": 0.1},
            "ColorJitter": {},
            "Contrast": {"factor": 0.1},
            "Crop": {"height": 4, "width": 4},
            "ElasticTransform": {},
            "Erasing": {},
            "Flip": {},
            "GaussianBlur": {},
            "Grayscale": {},
            "Hue": {"factor": 0.1},
            "Invert": {},
            "Perspective": {},
            "Posterization": {"factor": 4},
            "Rotation": {"factor": 0.1},
            "Saturation": {"factor": 0.1},
            "Sharpness": {"factor": 0.1},
            "Shear": {},
            "Translation": {"height_factor": 0.1, "width_factor": 0.1},
            "Zoom": {"height_factor": 0.1},
        }.items()
    },
    "Solarization": (IMAGE, {}),
    "AutoContrast": (IMAGE, {}),
}
MERGED = (
    *("Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply"),
    *("Subtract", "Attention", "AdditiveAttention", "MultiHeadAttention"),
    "GroupQueryAttention",
)
_MERGED_WITH = {
    "Dot": {"axes": 1},
    "MultiHeadAttention": {"num_heads": 2, "key_dim": 3},
    "GroupQueryAttention": {
        "head_dim": 3,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
    },
}
NAMES = (*MADE, *MERGED)


def model_of(name: str) -> keras.Model:
    """Returns a model with one layer of this class, called "layer"."""
    if name in MERGED:
        first, second = keras.Input(SEQUENCE, name="a"), keras.Input(SEQUENCE, name="b")
        layer = getattr(L, name)(**_MERGED_WITH.get(name, {}), name="layer")
        several = "Attention" not in name or name in ("Attention", "AdditiveAttention")
        made = layer([first, second]) if several else layer(first, second)
        return keras.Model([first, second], made)
    shape, arguments = MADE[name]
    dtype = "float32"
    if isinstance(shape[0], str):
        dtype, shape = shape
    inputs = keras.Input(shape, dtype=dtype, name="x")
    return keras.Model(inputs, getattr(L, name)(**arguments, name="layer")(inputs))
