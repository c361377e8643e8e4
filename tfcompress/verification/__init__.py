"""Does an artifact do what its model does? Numbers, not impressions."""

from tfcompress.exporters.tflite.divergence import LayerDifference, layer_differences
from tfcompress.verification.verify import (
    FLOAT_TOLERANCE,
    STEP_TOLERANCE,
    Verification,
    verify,
)

__all__ = [
    "FLOAT_TOLERANCE",
    "STEP_TOLERANCE",
    "LayerDifference",
    "Verification",
    "layer_differences",
    "verify",
]
