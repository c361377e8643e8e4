"""4-bit weights in .tflite files.

The converter knows int8 only: a kernel of 15 values gets the scale `max / 127`, on
which those values do not lie. Here such kernels get the scale they were made for, and
half a byte per weight where the runtime computes with that as well.
"""

from typing import Any

import flatbuffers
import numpy as np

from tfcompress.exporters.flatbuffer import read_schema
from tfcompress.quantization.storage import BYTE_ERROR, INT8, largest_integers

# Half bytes in these operators are as exact and as fast as bytes. XNNPACK leaves 4-bit
# convolutions to kernels that are slower and round a few sums differently.
EXACT = frozenset({"FULLY_CONNECTED"})
ALL = EXACT | {"CONV_2D", "DEPTHWISE_CONV_2D"}


def with_4_bit_weights(content: bytes, packed: frozenset[str] = EXACT) -> bytes:
    """Returns the file with kernels of at most 15 values per channel stored as such.

    Args:
        content: a .tflite file whose kernels `finalize` has rounded.
        packed: operators whose kernels are stored in half bytes; those of others
            stay bytes, which a zip archive makes as small.

    Returns:
        A file that computes with exactly the values of the finalized model, or
        `content` itself if no kernel is on such a grid.
    """
    schema = read_schema()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    done: dict[int, bool] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names.get(max(code.builtinCode, code.deprecatedBuiltinCode))
            if name not in ALL or len(operator.inputs) < 2:
                continue
            kernel = graph.tensors[operator.inputs[1]]
            if kernel.type != schema.TensorType.INT8 or kernel.buffer in done:
                continue
            biases = [graph.tensors[i] for i in operator.inputs[2:3] if i >= 0]
            done[kernel.buffer] = _narrow(schema, model, kernel, biases, name in packed)
    if not any(done.values()):
        return content
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _narrow(schema: Any, model: Any, kernel: Any, biases: list, pack: bool) -> bool:
    """Gives a kernel of 15 values, and its bias, the scale of 4 bits; says if it is."""
    stored = model.buffers[kernel.buffer].data
    if stored is None or not len(stored):
        return False
    axis = kernel.quantization.quantizedDimension if kernel.quantization else 0
    values = np.frombuffer(bytes(bytearray(stored)), np.int8).astype(int)
    values = values.reshape(kernel.shape)
    others = tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    integers = largest_integers(values, (axis,), BYTE_ERROR)
    factor = (INT8 / integers).reshape(-1)
    whole = np.isin(largest, (0, INT8)).all()
    if not whole or (integers == INT8).all() or _count(kernel) != len(factor):
        return False
    narrow = np.round(values * (integers / INT8)).astype(np.int8)
    kernel.quantization.scale = _scaled(kernel.quantization.scale, factor)
    if pack:
        kernel.type = schema.TensorType.INT4
    model.buffers[kernel.buffer].data = _half_bytes(narrow) if pack else _bytes(narrow)
    for bias in biases:
        data = model.buffers[bias.buffer].data
        added = np.frombuffer(bytes(bytearray(data)), np.int32)
        bias.quantization.scale = _scaled(bias.quantization.scale, factor)
        model.buffers[bias.buffer].data = _bytes(
            np.round(added / factor).astype(np.int32)
        )
    return True


def _count(kernel: Any) -> int:
    return 0 if kernel.quantization is None else len(kernel.quantization.scale)


def _scaled(scale: Any, factor: np.ndarray) -> list[float]:
    return [float(s) for s in np.asarray(scale, np.float32) * factor]


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(values.tobytes(), np.uint8)


def _half_bytes(values: np.ndarray) -> np.ndarray:
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8))
    low, high = flat[0::2] & 15, flat[1::2] & 15
    return (low | (high << 4)).astype(np.uint8)
