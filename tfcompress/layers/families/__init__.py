"""The rows of the table, a file for each kind of layers."""

from tfcompress.layers.families import (  # noqa: F401  (they file their rows)
    attention,
    convolutions,
    dense,
    elementwise,
    operations,
    preprocessing,
    recurrent,
    shapes,
)
