"""The C++ that the "micro" format writes beside its model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tfcompress.exporters.tensors import TensorInfo

# Builtin operators that tflite-micro has. Its resolver's methods are named after them.
_NAMES = """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL
    BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION
    CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE DIV EMBEDDING_LOOKUP
    ELU EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER
    GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU
    LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM
    MAX_POOL_2D MIRROR_PAD MEAN MINIMUM MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE
    READ_VARIABLE REDUCE_MAX RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR
    ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT
    SPLIT_V SQUEEZE SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM SVDF TANH
    TRANSPOSE_CONV TRANSPOSE UNPACK UNIDIRECTIONAL_SEQUENCE_LSTM VAR_HANDLE WHILE
    ZEROS_LIKE
"""
OPERATORS = frozenset(_NAMES.split())
_IRREGULAR = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}


def resolver_method(operator: str) -> str:
    """Returns the method of `MicroMutableOpResolver` that adds an operator.

    >>> resolver_method("DEPTHWISE_CONV_2D")
    'AddDepthwiseConv2D'
    """
    words = [w if w[0].isdigit() else w.capitalize() for w in operator.split("_")]
    return "Add" + _IRREGULAR.get(operator, "".join(words))


def array_source(content: bytes) -> str:
    """Returns the file `model.cc`: the model as an aligned array."""
    rows = [
        "    " + " ".join(f"0x{byte:02x}," for byte in content[start : start + 12])
        for start in range(0, len(content), 12)
    ]
    return "\n".join(
        [
            '#include "model.h"',
            "",
            "// Constant, so that it stays in flash; the runtime reads it in place.",
            "alignas(16) const unsigned char g_model[] = {",
            *rows,
            "};",
            f"const unsigned int g_model_size = {len(content)};",
            "",
        ]
    )


def header_source(
    inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], arena: int
) -> str:
    """Returns the file `model.h`: array, arena size, and shapes and scales."""
    lines = [
        "#ifndef MODEL_H_",
        "#define MODEL_H_",
        "",
        "extern const unsigned char g_model[];",
        "extern const unsigned int g_model_size;",
        "",
        "// The least that tflite-micro ran with on a 64-bit machine; pointers there",
        "// take twice the room that they take on a microcontroller.",
        f"constexpr unsigned int kArenaSize = {arena};",
        "",
        "// real value = scale * (integer - zero point)",
    ]
    for kind, tensors in (("Input", inputs), ("Output", outputs)):
        lines.append(f"constexpr int k{kind}Count = {len(tensors)};")
        for position, info in enumerate(tensors):
            size = 1
            for axis in info.shape:
                size *= axis or 1
            name = f"k{kind}{position}"
            shape = " x ".join(map(str, info.shape))
            lines += [
                f"// {position}: {_one_line(info.name)}, {info.dtype}, {shape}",
                f"constexpr int {name}Size = {size};",
                f"constexpr float {name}Scale = {_float(info.scale)};",
                f"constexpr int {name}ZeroPoint = {info.zero_point or 0};",
            ]
    return "\n".join([*lines, "", "#endif  // MODEL_H_", ""])


def resolver_source(operators: Sequence[str]) -> str:
    """Returns the file `resolver.h`: what the model needs of the runtime, no more."""
    calls = [
        f"  if (resolver.{resolver_method(o)}() != kTfLiteOk) return kTfLiteError;"
        for o in operators
    ]
    kind = f"tflite::MicroMutableOpResolver<{len(operators)}>"
    return "\n".join(
        [
            "#ifndef RESOLVER_H_",
            "#define RESOLVER_H_",
            "",
            '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
            "",
            f"using ModelResolver = {kind};",
            "",
            "inline TfLiteStatus AddOperators(ModelResolver& resolver) {",
            *calls,
            "  return kTfLiteOk;",
            "}",
            "",
            "#endif  // RESOLVER_H_",
            "",
        ]
    )


def readme(
    inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], size: int, arena: int
) -> str:
    """Returns the file `README.md` of the folder."""
    rows = [
        f"| {kind} {position} | {_one_line(info.name)} | {info.dtype} | "
        f"{list(info.shape)} | {info.scale:g} | {info.zero_point} |"
        for kind, tensors in (("input", inputs), ("output", outputs))
        for position, info in enumerate(tensors)
    ]
    return _README.format(rows="\n".join(rows), size=size, arena=arena)


def _one_line(name: str) -> str:
    # A name comes from the user; a line break or comment end must not become code.
    return re.sub(r"[^\w ./:-]", "_", name)


def _float(value: float | None) -> str:
    text = repr(float(value or 0.0))
    return text + "f" if any(mark in text for mark in ".e") else text + ".0f"


INFERENCE = """\
#include "inference.h"

#include <cstring>

#include "model.h"
#include "resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {
alignas(16) unsigned char arena[kArenaSize];
tflite::MicroInterpreter* interpreter = nullptr;
}  // namespace

bool SetUpModel() {
  static ModelResolver resolver;
  if (AddOperators(resolver) != kTfLiteOk) return false;
  static tflite::MicroInterpreter made(tflite::GetModel(g_model), resolver, arena,
                                       kArenaSize);
  if (made.AllocateTensors() != kTfLiteOk) return false;
  interpreter = &made;
  return true;
}

signed char* ModelInput(int index) {
  return interpreter->input(index)->data.int8;
}

const signed char* ModelOutput(int index) {
  return interpreter->output(index)->data.int8;
}

bool RunModel() { return interpreter->Invoke() == kTfLiteOk; }
"""

INFERENCE_HEADER = """\
#ifndef INFERENCE_H_
#define INFERENCE_H_

// Call once; false if the arena is too small or an operator is missing.
bool SetUpModel();
// Write integers here ...
signed char* ModelInput(int index);
// ... run ...
bool RunModel();
// ... and read integers here. Scales and zero points are in model.h.
const signed char* ModelOutput(int index);

#endif  // INFERENCE_H_
"""

_README = """\
# A model for microcontrollers

Add the `.cc` and `.h` files to a project that has
[tflite-micro](https://github.com/tensorflow/tflite-micro), call `SetUpModel()` once,
then write `ModelInput(0)`, call `RunModel()` and read `ModelOutput(0)`.

| tensor | name | type | shape | scale | zero point |
|---|---|---|---|---|---|
{rows}

Flash: {size} bytes for the model, and the kernels that `resolver.h` names. RAM: an
arena of {arena} bytes, measured in tflite-micro on a 64-bit machine; 32-bit ones need
less, kernels with buffers of their own (CMSIS-NN, ESP-NN) may need more: if
`SetUpModel()` returns false, raise `kArenaSize`.
"""
