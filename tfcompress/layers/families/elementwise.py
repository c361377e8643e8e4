"""Activations, normalizations and merges: no sums of products."""

from __future__ import annotations

from keras import layers

from tfcompress.core.attached_mask import AttachedMask
from tfcompress.core.held_tensor import HeldTensor
from tfcompress.layers.rules import fill, wrapped
from tfcompress.layers.sizes import no_products

fill(
    (
        *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU),
        *(layers.PReLU, layers.Softmax),
    ),
    flow="activate",
    macs=no_products,
)
fill(
    (layers.BatchNormalization, layers.Rescaling, layers.Normalization),
    flow="fold",
    macs=no_products,
)
# Said in operations with integer kernels where their options allow it.
fill(
    (
        *(layers.LayerNormalization, layers.RMSNormalization),
        *(layers.UnitNormalization, layers.GroupNormalization),
    ),
    flow="float",
    macs=no_products,
)
fill(
    (layers.Add, layers.Subtract, layers.Multiply), flow="arithmetic", macs=no_products
)
fill(
    (layers.Concatenate, layers.Maximum, layers.Minimum),
    flow="concatenate",
    macs=no_products,
)
fill((layers.Average, layers.Masking), flow="float", macs=no_products)
fill((layers.SpectralNormalization,), holds=wrapped)
# What a layer that was opened held itself, and the mask that it made.
fill((HeldTensor,), flow="arithmetic", macs=no_products)
fill(
    (AttachedMask,),
    flow="select",
    macs=no_products,
    channels="same",
    training_only=True,
)
