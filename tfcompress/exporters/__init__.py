"""Exporters: from a Keras model to an artifact on disk, and back to arrays.

To add a format, write one file with one class and import it below.
"""

from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.coreml.exporter import CoreMLExporter
from tfcompress.exporters.ethos_u.exporter import EthosUExporter
from tfcompress.exporters.executorch.exporter import ExecuTorchExporter
from tfcompress.exporters.export import export, load
from tfcompress.exporters.exporter import Exporter
from tfcompress.exporters.keras_runner import KerasRunner
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.micro.exporter import MicroExporter
from tfcompress.exporters.npu import CompiledFile, LeftToCPU, NPUFigures, NPULayer
from tfcompress.exporters.onnx.exporter import ONNXExporter
from tfcompress.exporters.openvino.exporter import OpenVINOExporter
from tfcompress.exporters.qnn.exporter import QNNExporter
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.saved_model.exporter import SavedModelExporter
from tfcompress.exporters.saved_model.signatures import ServingSignatures
from tfcompress.exporters.tensors import OperatorCount, SignatureInfo, TensorInfo
from tfcompress.exporters.tflite.app_code import write_callers
from tfcompress.exporters.tflite.exporter import TFLiteExporter
from tfcompress.exporters.tflite.metadata import ModelDescription
from tfcompress.exporters.training import OnDeviceTraining
from tfcompress.exporters.web.exporter import WebExporter

__all__ = [
    "EXPORTERS",
    "Artifact",
    "CompiledFile",
    "CoreMLExporter",
    "EthosUExporter",
    "ExecuTorchExporter",
    "Exporter",
    "KerasRunner",
    "LeftToCPU",
    "Limits",
    "MicroExporter",
    "ModelDescription",
    "NPUFigures",
    "NPULayer",
    "ONNXExporter",
    "OnDeviceTraining",
    "OpenVINOExporter",
    "OperatorCount",
    "QNNExporter",
    "Runner",
    "SavedModelExporter",
    "ServingSignatures",
    "SignatureInfo",
    "TFLiteExporter",
    "TensorInfo",
    "WebExporter",
    "export",
    "load",
    "write_callers",
]
