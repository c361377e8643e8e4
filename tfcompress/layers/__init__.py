"""The one table of layer types: kernels and axes, how numbers flow, MACs."""

from tfcompress.layers.counting import OPERATION_MACS, macs, macs_of_nodes
from tfcompress.layers.held import holds, multiplies_nothing
from tfcompress.layers.rules import (
    OPERATION_FLOWS,
    TRAINING_ONLY,
    EinsumKernel,
    Flow,
    Kernel,
    LayerRule,
    changes_nothing,
    kernels_of,
    knows,
    model_kernels,
    operation_name,
    register_layer_rule,
    rule_of,
    rule_of_type,
)

__all__ = [
    "OPERATION_FLOWS",
    "OPERATION_MACS",
    "TRAINING_ONLY",
    "EinsumKernel",
    "Flow",
    "Kernel",
    "LayerRule",
    "changes_nothing",
    "holds",
    "kernels_of",
    "knows",
    "macs",
    "macs_of_nodes",
    "model_kernels",
    "multiplies_nothing",
    "operation_name",
    "register_layer_rule",
    "rule_of",
    "rule_of_type",
]
