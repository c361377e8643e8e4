"""What stands around a model on a server: versions, configuration, clouds, a client."""

from tfcompress.serving.client import Client
from tfcompress.serving.clouds import azure_ml, sagemaker, vertex_ai
from tfcompress.serving.configuration import write_configuration
from tfcompress.serving.versions import rollback, versions

__all__ = [
    "Client",
    "azure_ml",
    "rollback",
    "sagemaker",
    "versions",
    "vertex_ai",
    "write_configuration",
]
