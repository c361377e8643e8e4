"""Exporters: from a Keras model to an artifact on disk, and back to arrays.

To add a format, write one file with one class and import it below.
"""

from tfcompress.exporters.artifact import Artifact, OperatorCount, TensorInfo
from tfcompress.exporters.base import EXPORTERS, Exporter
from tfcompress.exporters.callers import write_callers
from tfcompress.exporters.doctor import Diagnosis, Finding, doctor
from tfcompress.exporters.export import export, load
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.metadata import ModelDescription
from tfcompress.exporters.micro import MicroExporter
from tfcompress.exporters.onnx import ONNXExporter
from tfcompress.exporters.openvino import OpenVINOExporter
from tfcompress.exporters.runners import KerasRunner, Runner
from tfcompress.exporters.saved_model import SavedModelExporter
from tfcompress.exporters.signatures import ServingSignatures
from tfcompress.exporters.tflite import TFLiteExporter
from tfcompress.exporters.web import WebExporter

__all__ = [
    "EXPORTERS",
    "Artifact",
    "Diagnosis",
    "Exporter",
    "Finding",
    "KerasRunner",
    "Limits",
    "MicroExporter",
    "ModelDescription",
    "ONNXExporter",
    "OpenVINOExporter",
    "OperatorCount",
    "Runner",
    "SavedModelExporter",
    "ServingSignatures",
    "TFLiteExporter",
    "TensorInfo",
    "WebExporter",
    "doctor",
    "export",
    "load",
    "write_callers",
]
