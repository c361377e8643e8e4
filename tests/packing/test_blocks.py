"""Blocks: bit-exact for any bytes, near the entropy for weights, safe when damaged."""

import collections
import os
import threading

import brotli
import numpy as np
import pytest

from tfcompress.packing import blocks, sparse
from tfcompress.packing.ahead import ahead
from tfcompress.packing.blocks import Span, decode, encode
from tfcompress.packing.stream import Damaged


def entropy_bytes(values):
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


def pruned(rng, shape, sparsity, values):
    mask = rng.random(shape) >= sparsity
    return np.where(mask, rng.choice(values, shape), 0)


ARRAYS = {
    "sparse int8": lambda r: pruned(r, (90, 70), 0.9, [-8, -3, 5, 9]).astype("int8"),
    "dense codes": lambda r: r.integers(0, 16, (64, 64)).astype("uint8"),
    "sparse float32": lambda r: pruned(r, (60, 50), 0.8, r.normal(size=500)).astype(
        "float32"
    ),
    "shared float32": lambda r: r.choice(r.normal(size=9), (80, 40)).astype("float32"),
    "float32": lambda r: r.normal(size=(50, 30)).astype("float32"),
    "float16": lambda r: r.normal(size=(50, 30)).astype("float16"),
    "int64": lambda r: r.integers(-(2**60), 2**60, (9, 9)),
    "zeros": lambda r: np.zeros((40, 30), "float32"),
    "one value": lambda r: np.full((40, 30), 7, "int8"),
    "one row": lambda r: r.integers(-3, 3, (1, 300)).astype("int32"),
    "minus zero": lambda r: np.where(r.random((30, 30)) < 0.5, -0.0, 0.0),
    "nan": lambda r: np.full((9, 9), np.nan, "float32"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_the_same_bytes_come_back(rng, name):
    array = ARRAYS[name](rng)
    rows, columns = array.shape
    data = b"before" + array.tobytes() + b"after"
    span = Span(6, array.itemsize, rows, columns)
    assert decode(encode(data, [span]), len(data)) == data


@pytest.mark.parametrize("data", [b"", b"x", bytes(5000), bytes(range(256)) * 9])
def test_bytes_without_arrays(data):
    assert decode(encode(data, []), len(data)) == data


@pytest.mark.parametrize(("sparsity", "values"), [(0.95, 15), (0.9, 7), (0.3, 31)])
def test_weights_take_their_entropy(rng, sparsity, values):
    array = pruned(rng, (300, 400), sparsity, rng.permutation(256)[:values])
    array = array.astype("uint8")
    packed = encode(array.tobytes(), [Span(0, 1, 300, 400)])
    assert len(packed) <= 1.02 * entropy_bytes(array) + 100


def test_rows_and_columns_that_differ_take_less_than_their_entropy(rng):
    chances = np.outer(rng.beta(0.5, 4, 300), rng.beta(2, 1, 400)) * 2
    array = np.where(
        rng.random((300, 400)) < chances, rng.integers(1, 9, (300, 400)), 0
    )
    packed = encode(array.astype("u1").tobytes(), [Span(0, 1, 300, 400)])
    assert len(packed) < 0.9 * entropy_bytes(array)


@pytest.fixture
def compressed(monkeypatch):
    """Bytes that the best and the quick compressor were given."""
    counts, compress = collections.Counter(), brotli.compress

    def counted(data, quality, **options):
        counts[quality] += len(data)
        return compress(data, quality=quality, **options)

    monkeypatch.setattr(brotli, "compress", counted)
    return counts


@pytest.mark.parametrize("spread", [4, 15, 40])
def test_dense_integers_are_not_compressed_to_be_compared(rng, compressed, spread):
    """The best compressor takes a hundred times as long as all the rest."""
    array = np.clip(np.round(rng.normal(size=(512, 512)) * spread), -127, 127)
    encode(array.astype("int8").tobytes(), [Span(0, 1, 512, 512)])
    assert compressed[11] <= array.size / 32 + 1000
    assert compressed[5] <= array.size * 33 / 32


def test_what_compresses_better_is_compressed(rng):
    row = np.clip(np.round(rng.normal(size=(8, 1024)) * 30), -127, 127)
    array = np.tile(row, (16, 1)).astype("int8")
    packed = encode(array.tobytes(), [Span(0, 1, *array.shape)])
    assert len(packed) < row.size < 0.1 * entropy_bytes(array)


def test_arrays_are_looked_at_ahead_and_in_order():
    begun, events = [], [threading.Event() for _ in range(50)]

    def work(item):
        begun.append(item)
        events[item].wait(5)
        return item

    results = ahead(work, range(50))
    for item in range(50):
        events[item].set()
        assert next(results) == item
        assert len(begun) <= item + 2 * os.cpu_count() + 1  # few are held at once


def test_densities_are_those_of_the_mask(rng):
    a, b = rng.normal(-1, 1, 200), rng.normal(0, 1, 300)
    mask = rng.random((200, 300)) < 1 / (1 + np.exp(-(a[:, None] + b[None, :])))
    found = sparse.densities(mask)
    expected = sparse.PROBABILITIES[sparse.classes(*found)].reshape(mask.shape)
    np.testing.assert_allclose(expected.mean(1), mask.mean(1), atol=0.07)
    np.testing.assert_allclose(expected.mean(0), mask.mean(0), atol=0.07)


def test_probabilities_are_the_same_on_every_machine():
    scaled = sparse.PROBABILITIES * 2**24
    found = scaled[[0, 10, 20, 30, 40]].astype(int).tolist()
    assert found == [761, 112287, 8388608, 16664928, 16776454]


def test_changed_bits_give_an_error_or_other_bytes_and_never_more(rng):
    array = pruned(rng, (40, 50), 0.8, [1, 2, 3, 200]).astype("uint8")
    data = b"head" + array.tobytes()
    packed = bytearray(encode(data, [Span(4, 1, 40, 50)]))
    refused = 0
    for place in range(0, len(packed), 3):
        changed = packed.copy()
        changed[place] ^= 1 << int(rng.integers(8))
        try:
            assert len(decode(bytes(changed), len(data))) == len(data)
        except Damaged:
            refused += 1
    assert refused > 5


def test_what_claims_to_be_larger_than_it_may_is_refused(rng):
    packed = encode(bytes(100_000), [])
    with pytest.raises(Damaged):
        decode(packed, 99_999)
    bomb = bytes([5, 100, 30]) + blocks._compress(bytes(10**6))
    with pytest.raises(Damaged):
        decode(bomb, 105)
