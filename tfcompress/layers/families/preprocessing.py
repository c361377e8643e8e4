"""What prepares data, and what happens in training only."""

from __future__ import annotations

from tfcompress.layers.rules import existing, fill
from tfcompress.layers.sizes import no_products

# Layers that change nothing once training is over.
TRAINING_ONLY = existing(
    "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout "
    "GaussianNoise AlphaDropout ActivityRegularization Identity AugMix CutMix "
    "Equalization MaxNumBoundingBoxes MixUp RandAugment RandomBrightness "
    "RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop "
    "RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur "
    "RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization "
    "RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation "
    "RandomZoom Solarization"
)

fill(TRAINING_ONLY, flow="select", macs=no_products, training_only=True)
fill(
    existing(
        "CategoryEncoding Discretization Hashing HashedCrossing IntegerLookup "
        "StringLookup TextVectorization"
    ),
    flow="lookup",
    macs=no_products,
)
fill(
    existing("AutoContrast ContrastLimitedAdaptiveHistogramEqualization"),
    macs=no_products,
)
