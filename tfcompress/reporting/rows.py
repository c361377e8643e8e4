"""One model or artifact of a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tfcompress.exporters.npu import NPUFigures
from tfcompress.reporting.measures import LayerWeights


@dataclass(frozen=True)
class Row:
    """One model or artifact of a report; None is "not measured".

    Args:
        name: the model's name or the artifact's file name.
        format: "keras", "tflite" or "saved_model".
        size: bytes on disk; of a Keras model, bytes of its weights.
        gzip_size: the same after `gzip -9`.
        sparsity: share of zeros in the kernels, from 0 to 1.
        macs: multiply-accumulates of one sample.
        integer_coverage: share of the work that is done on integers, from 0 to 1.
        metric: what `evaluate` returned.
        latency: median milliseconds of one call.
        size_ratio: how many times smaller than the baseline, by `size`.
        gzip_ratio: how many times smaller than the baseline, by `gzip_size`.
        latency_ratio: how many times faster than the first row of the same format:
            Keras' `predict` and LiteRT cannot be compared. None for that row itself,
            unless it is the baseline.
        metric_change: `metric` minus the baseline's.
        path: where the artifact is; None for a Keras model.
        zip_size: bytes in a zip archive such as an APK.
        entropy_size: bytes that the weights need at least, given how often each value
            occurs, and all others as they are packed.
        packed_size: bytes after `pack`.
        packed_ratio: how many times smaller than the baseline's `size` that is.
        layers: its weights, layer by layer; none of a format that hides them.
        cycles: of an NPU for one call, as its compiler estimates them.
        sram: bytes of SRAM, likewise.
        npu_share: share of the operators that the NPU computes, from 0 to 1.
        npu: all that its compiler said, layer by layer; None without an NPU.
    """

    name: str
    format: str
    size: int
    gzip_size: int
    sparsity: float | None = None
    macs: int | None = None
    integer_coverage: float | None = None
    metric: float | None = None
    latency: float | None = None
    size_ratio: float | None = None
    gzip_ratio: float | None = None
    latency_ratio: float | None = None
    metric_change: float | None = None
    path: str | None = None
    zip_size: int | None = None
    entropy_size: int | None = None
    packed_size: int | None = None
    packed_ratio: float | None = None
    layers: tuple[LayerWeights, ...] = ()
    cycles: int | None = None
    sram: int | None = None
    npu_share: float | None = None
    npu: NPUFigures | None = None

    @property
    def file_size(self) -> int | None:
        """Bytes on disk; None of a Keras model, which is in memory."""
        return None if self.format == "keras" else self.size

    @property
    def weight_size(self) -> int | None:
        """Bytes of the weights, of an artifact of its kernels; None if hidden."""
        if self.format == "keras":
            return self.size
        bits = sum(layer.count * layer.bits for layer in self.layers)
        return -(-bits // 8) if self.layers else None


def compared(row: Row, rows: Sequence[Row]) -> Row:
    """Returns a row with its ratios to rows before it, the baseline first."""
    baseline = rows[0] if rows else row
    alike = (one for one in rows if one.format == row.format)
    peer = next(alike, row if row is baseline else None)
    change = None
    if row.metric is not None and baseline.metric is not None:
        change = row.metric - baseline.metric
    return dataclasses.replace(
        row,
        size_ratio=_ratio(baseline.size, row.size),
        gzip_ratio=_ratio(baseline.gzip_size, row.gzip_size),
        latency_ratio=_ratio(peer.latency if peer else None, row.latency),
        metric_change=change,
        packed_ratio=_ratio(baseline.size, row.packed_size),
    )


def _ratio(baseline: float | None, value: float | None) -> float | None:
    return baseline / value if baseline is not None and value else None
