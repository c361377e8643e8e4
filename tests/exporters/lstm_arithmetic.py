"""LiteRT's integer LSTM in NumPy, bit for bit.

Source: `EvalInteger8x8_16` of TensorFlow Lite, in the order of its kernels, and
gemmlowp's fixed-point functions: 16-bit numbers, products rounded to their upper half.
"""

import dataclasses
import math

import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.rewriting import calls, integers

_ONE, _HALF_ONE = 32767, 1 << 13  # with no bits, and with two, before the point


@dataclasses.dataclass(frozen=True)
class LSTM:
    """What an operator holds: lists have input, forget, candidate and output gate."""

    kernels: list
    recurrent: list
    biases: list
    input_scales: list
    state_scales: list
    given: tuple
    state: tuple
    cell: int

    @classmethod
    def of(cls, model):
        """Returns that of the only LSTM operator of a file taken apart."""
        ((_, operator, tensors),) = [
            call for call in calls(model, model.subgraphs[0]) if "LSTM" in call[0]
        ]
        scales = [one and np.float32(one.quantization.scale[0]) for one in tensors]
        points = [one and int(one.quantization.zeroPoint[0]) for one in tensors]
        eight = [
            integers(model, one, np.int8).reshape(one.shape).astype(int)
            for one in tensors[1:9]
        ]
        assert len(operator.intermediates) == 5
        assert tensors[19].type == read_schema().TensorType.INT16
        return cls(
            kernels=eight[:4],
            recurrent=eight[4:],
            biases=[
                integers(model, one, np.int32).astype(int) for one in tensors[12:16]
            ],
            input_scales=scales[1:5],
            state_scales=scales[5:9],
            given=(scales[0], points[0]),
            state=(scales[18], points[18]),
            cell=int(math.log2(scales[19])),
        )

    def __call__(self, x):
        """Returns the states after each step of one sequence of integers."""
        state = np.full(len(self.biases[0]), self.state[1])
        cell, made = np.zeros(len(state), int), []
        for row in np.asarray(x, int):
            pairs = (row - self.given[1], state - self.state[1])
            one, two, candidate, four = (
                self._gate(gate, *pairs, np.tanh if gate == 2 else None)
                for gate in range(4)
            )
            kept = _divided(two * cell, 15)
            new = _divided(one * candidate, 30 + self.cell)
            cell = _saturated(kept + new)
            shown = four * _tanh(cell, 15 + self.cell)
            step = np.float32(2.0**-15 / float(self.state[0]) * 2.0**-15)
            state = np.clip(_rescaled(shown, step) + self.state[1], -128, 127)
            made.append(state)
        return np.array(made)

    def _gate(self, gate, x, state, activation):
        total = np.zeros(len(state), int)
        products = (
            (self.kernels, self.input_scales, self.given, x, self.biases[gate]),
            (self.recurrent, self.state_scales, self.state, state, 0),
        )
        for kernels, scales, (scale, _), read, bias in products:
            step = scales[gate] * scale / np.float32(2.0**-12)
            total = _saturated(total + _rescaled(kernels[gate] @ read + bias, step))
        return _tanh(total, 3) if activation else _sigmoid(total)


def _saturated(x):
    return np.clip(x, -32768, 32767)


def _divided(x, bits):
    """Divides by a power of two, halves away from zero."""
    mask = (1 << bits) - 1
    return (x >> bits) + ((x & mask) > (mask >> 1) + (x < 0))


def _high(x, y, bits=15):
    """Returns the rounded upper half of a product."""
    product = np.asarray(x, np.int64) * y
    nudged = product + np.where(product >= 0, 1 << bits - 1, 1 - (1 << bits - 1))
    return np.sign(nudged) * (np.abs(nudged) >> bits)


def _rescaled(x, factor):
    """Multiplies by a number, as 31 bits and a power of two, and rounds twice."""
    share, exponent = math.frexp(float(factor))
    whole = math.floor(share * (1 << 31) + 0.5)
    if whole == 1 << 31:
        whole, exponent = whole // 2, exponent + 1
    high = _high(np.asarray(x, np.int64) << max(exponent, 0), whole, 31)
    return _divided(high, max(-exponent, 0))


def _shifted(x, bits):
    """Multiplies by a power of two; what is too large becomes the largest."""
    if bits <= 0:
        return _divided(x, -bits) if bits else x
    edge = (1 << 15 - bits) - 1
    return np.where(x > edge, 32767, np.where(x < -edge, -32768, x << bits))


def _constant(number):
    return int(_divided(np.int64(number), 16))


def _exp(x, bits):
    """Returns e to the power of negative numbers with `bits` before the point."""
    fraction = 15 - bits
    quarter = 1 << fraction - 2
    rest = (x & quarter - 1) - quarter
    # Taylor's series around -1/8, and a factor for each bit before.
    y = _shifted(rest, bits) + (1 << 12)
    square = _high(y, y)
    third = _high(_divided(_high(square, square), 2) + _high(square, y), 10923)
    base = _constant(1895147668)
    result = _saturated(base + _high(y + _divided(third + square, 1), base))
    factors = 1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242
    for exponent, factor in enumerate(factors, -2):
        if bits > exponent:
            bit = (rest - x) & (1 << fraction + exponent)
            result = np.where(bit, _high(result, _constant(factor)), result)
    return np.where(x == 0, _ONE, result)


def _reciprocal(x):
    """Returns 2 / (1 + x), by three steps of Newton's."""
    half = (x + _ONE + 1) >> 1
    y = _constant(1515870810) + _high(half, _constant(-1010580540))
    for _ in range(3):
        y = y + _shifted(_high(y, _HALF_ONE - _high(half, y)), 2)
    return y


def _sigmoid(x):
    positive = _shifted(_reciprocal(_exp(-np.abs(x), 3)), 1)
    mirrored = np.where(x > 0, positive, _ONE - positive)
    return np.where(x == 0, 1 << 14, mirrored)


def _tanh(x, bits):
    positive = _shifted(_reciprocal(_exp(-np.abs(x), bits + 1)) - _HALF_ONE, 2)
    return np.sign(x) * positive
