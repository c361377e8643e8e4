"""The options of `export` for each format, as a type checker and an editor see them.

What each option does stands at the exporters' classes; a test keeps both in accord.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from tfcompress.exporters.saved_model.signatures import ServingSignatures
from tfcompress.exporters.tflite.metadata import ModelDescription


class TFLiteOptions(TypedDict, total=False):
    """Options of `format="tflite"`; see `exporters.TFLiteExporter`."""

    compile_for: str | Sequence[str] | None
    batch_size: int | None
    io_dtype: Literal["float32", "int8", "uint8", "int16"]
    overwrite: bool
    quantize: Literal["float16", "dynamic"] | None
    int4: Literal["exact", "all", "none"]
    sparse: bool
    smallest: Literal["raw", "zip", "latency"] | None
    description: ModelDescription | None
    recurrent: Literal["unrolled", "fused"]
    compute: Literal["integer", "float"]


class FloatFileOptions(TypedDict, total=False):
    """Options of a float .tflite file; see `exporters/float_file/exporter.py`."""

    scheme: Literal["w8a8", "w8a16"]
    io_dtype: Literal["float32", "int8"]
    quantize: Literal["float16", "dynamic"] | None
    overwrite: bool


class SavedModelOptions(TypedDict, total=False):
    """Options of `format="saved_model"`; see `exporters.SavedModelExporter`."""

    version: int | None
    batch_size: int | None
    weights: Literal["variables", "compact"]
    signatures: ServingSignatures | None
    warm_up: Any
    tflite: bool
    exact_integers: bool


class ONNXOptions(TypedDict, total=False):
    """Options of `format="onnx"`; see `exporters.ONNXExporter`."""

    batch_size: int | None
    opset: int
    overwrite: bool
    exact_sums: bool
    kernels: Literal["uint8", "int8"]


class OpenVINOOptions(TypedDict, total=False):
    """Options of `format="openvino"`; see `exporters.OpenVINOExporter`."""

    batch_size: int | None
    float16: bool


class MicroOptions(TypedDict, total=False):
    """Options of `format="micro"`; see `exporters.MicroExporter`."""

    arena_margin: int
    recurrent: Literal["unrolled", "fused"]


class EthosUOptions(TypedDict, total=False):
    """Options of `format="ethos_u"`; see `exporters.EthosUExporter`."""

    npu: str
    memory_mode: str | None
    system_config: str | None
    config: str | os.PathLike | None
    optimise: Literal["performance", "size"]
    whole: bool


class QNNOptions(TypedDict, total=False):
    """Options of `format="qnn"`; see `exporters.QNNExporter`."""

    soc: str | int
    batch_size: int
    exact_sums: bool


class ExecuTorchOptions(TypedDict, total=False):
    """Options of `format="executorch"`; see `exporters.ExecuTorchExporter`."""

    batch_size: int
    overwrite: bool


class WebOptions(TypedDict, total=False):
    """Options of `format="web"`; see `exporters.WebExporter`."""

    litertjs: str | os.PathLike | None


class CoreMLOptions(TypedDict, total=False):
    """Options of `format="coreml"`; see `exporters.CoreMLExporter`."""

    batch_size: int
    minimum_deployment_target: Literal["iOS17", "iOS18", "iOS26"]
    float16: bool


OPTIONS: dict[str, type] = {
    "coreml": CoreMLOptions,
    "tflite": TFLiteOptions,
    "saved_model": SavedModelOptions,
    "onnx": ONNXOptions,
    "openvino": OpenVINOOptions,
    "micro": MicroOptions,
    "ethos_u": EthosUOptions,
    "qnn": QNNOptions,
    "executorch": ExecuTorchOptions,
    "web": WebOptions,
}
