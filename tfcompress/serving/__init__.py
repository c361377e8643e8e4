"""What stands around a model on a server: versions, configuration, clouds, a client."""

from tfcompress.serving.client import Client
from tfcompress.serving.clouds import azure_ml, sagemaker, vertex_ai
from tfcompress.serving.configuration import write_configuration
from tfcompress.serving.model_repositories import kserve, triton
from tfcompress.serving.versions import rollback, versions

__all__ = [
    "Client",
    "azure_ml",
    "kserve",
    "rollback",
    "sagemaker",
    "triton",
    "versions",
    "vertex_ai",
    "write_configuration",
]
