"""What stands around a model on a server: configuration, layouts, a client."""

from tfcompress.serving.client import Client
from tfcompress.serving.clouds import azure_ml, sagemaker, vertex_ai
from tfcompress.serving.configuration import write_configuration
from tfcompress.serving.model_repositories import kserve, triton
from tfcompress.serving.services import bento_service, kserve_server
from tfcompress.serving.versions import rollback, versions

__all__ = [
    "Client",
    "azure_ml",
    "bento_service",
    "kserve",
    "kserve_server",
    "rollback",
    "sagemaker",
    "triton",
    "versions",
    "vertex_ai",
    "write_configuration",
]
