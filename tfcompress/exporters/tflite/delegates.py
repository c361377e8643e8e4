"""Which operators of a .tflite file the accelerators of phones take."""

from __future__ import annotations

from dataclasses import dataclass

from tfcompress.exporters.artifact import Artifact


@dataclass(frozen=True)
class Delegate:
    """An accelerator: its name, its operators, and whether it takes 8-bit integers."""

    name: str
    operators: frozenset[str]
    integers: bool
    remark: str


_GPU = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE EXP
    FULLY_CONNECTED HARD_SWISH LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PAD
    PRELU QUANTIZE RELU RELU6 RESHAPE RESIZE_BILINEAR SOFTMAX STRIDED_SLICE SUB TANH
    TRANSPOSE_CONV
"""
_NNAPI = """
    ADD AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION CONV_2D DEPTHWISE_CONV_2D
    DEQUANTIZE FULLY_CONNECTED L2_NORMALIZATION LOGISTIC MAXIMUM MAX_POOL_2D MEAN
    MINIMUM MUL PAD PRELU QUANTIZE RELU RELU6 RESHAPE RESIZE_BILINEAR SOFTMAX
    SPACE_TO_BATCH_ND SPLIT SQUEEZE STRIDED_SLICE SUB TANH TRANSPOSE TRANSPOSE_CONV
"""
_CORE_ML = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED
    HARD_SWISH LOGISTIC MAX_POOL_2D MIRROR_PAD MUL PAD RELU RELU6 RELU_N1_TO_1
    RESHAPE RESIZE_BILINEAR SOFTMAX TANH TRANSPOSE_CONV
"""

# From the delegates' documentation: https://ai.google.dev/edge/litert/performance
DELEGATES = (
    Delegate("GPU", frozenset(_GPU.split()), True, "computes 8-bit models in float"),
    Delegate("NNAPI", frozenset(_NNAPI.split()), True, "deprecated since Android 15"),
    Delegate("Core ML", frozenset(_CORE_ML.split()), False, "float models only"),
)


def notes(artifact: Artifact) -> str:
    """Returns a table of what each delegate takes of a file, as Markdown."""
    names = {op.name for op in artifact.operators}
    integer = any("int8" in op.activations for op in artifact.operators)
    rows = []
    for delegate in DELEGATES:
        left = sorted(names - delegate.operators)
        if integer and not delegate.integers:
            verdict = "none of it: the model is in integers"
        elif left:
            verdict = f"all but {', '.join(left)}, which stay on the CPU"
        else:
            verdict = "all of it"
        rows.append(f"| {delegate.name} | {verdict} | {delegate.remark} |")
    lines = [
        "By the operators of the file and the delegates' documentation, not measured:",
        "",
        "| delegate | takes | |",
        "|---|---|---|",
        *rows,
        "",
        "Each change between CPU and accelerator copies tensors; with many, the CPU",
        "alone (XNNPACK, the default) is faster. Measure on the phone.",
        "",
    ]
    return "\n".join(lines)
