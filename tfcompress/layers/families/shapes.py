"""Pooling, padding, cropping, resizing and reshaping."""

from __future__ import annotations

from keras import layers

from tfcompress.layers.rules import existing, fill
from tfcompress.layers.sizes import no_products

fill(
    (
        *(layers.MaxPooling1D, layers.MaxPooling2D),
        *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
        *(layers.ZeroPadding1D, layers.ZeroPadding2D),
        *(layers.Cropping1D, layers.Cropping2D),
        *(layers.UpSampling1D, layers.UpSampling2D, layers.Resizing),
        *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector),
        layers.InputLayer,
    ),
    flow="select",
    macs=no_products,
)
fill(
    (layers.AveragePooling1D, layers.AveragePooling2D), flow="average", macs=no_products
)
fill(
    (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    flow="arithmetic",
    macs=no_products,
)
fill(
    (
        *(layers.AveragePooling3D, layers.MaxPooling3D, layers.UpSampling3D),
        *(layers.GlobalAveragePooling3D, layers.GlobalMaxPooling3D),
        *(layers.ZeroPadding3D, layers.Cropping3D, layers.CenterCrop),
    ),
    flow="float",
    macs=no_products,
)
fill(
    existing(
        "AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D "
        "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D"
    ),
    macs=no_products,
)
