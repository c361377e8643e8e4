"""The operators, a file for each kind of them."""

from tfcompress.interop.onnx.operators import (  # noqa: F401  (they file themselves)
    convolutions,
    dense,
    elementwise,
    joining,
    normalizations,
    pooling,
    recurrent,
    reductions,
    resizing,
    shapes,
)
