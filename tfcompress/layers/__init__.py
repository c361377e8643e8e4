"""The one table of layer types: all that is known of each, in one row."""

from tfcompress.layers import families  # noqa: F401  (its files file their rows)
from tfcompress.layers.counting import macs, macs_of_nodes
from tfcompress.layers.families.preprocessing import TRAINING_ONLY
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.layers.kernels import EinsumKernel, Kernel
from tfcompress.layers.matrix import Matrix
from tfcompress.layers.rules import (
    Flow,
    LayerRule,
    Unknown,
    cell,
    changes_nothing,
    column,
    families_of,
    fill,
    kernels_of,
    knows,
    model_kernels,
    operation_name,
    refuse,
    register_layer_rule,
    rows,
    rows_of,
    rule_of,
    rule_of_type,
    wrapped,
)
from tfcompress.layers.sizes import no_products
from tfcompress.layers.table import layer_table

__all__ = [
    "TRAINING_ONLY",
    "EinsumKernel",
    "Flow",
    "Kernel",
    "LayerRule",
    "Matrix",
    "Parts",
    "StaysFloat",
    "Unknown",
    "cell",
    "changes_nothing",
    "column",
    "families_of",
    "fill",
    "kernels_of",
    "knows",
    "layer_table",
    "macs",
    "macs_of_nodes",
    "model_kernels",
    "no_products",
    "operation_name",
    "refuse",
    "register_layer_rule",
    "rows",
    "rows_of",
    "rule_of",
    "rule_of_type",
    "wrapped",
]
