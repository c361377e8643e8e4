"""Layouts that the clouds' own TensorFlow servers take."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.publishing import staged
from tfcompress.serving.configuration import IMAGE
from tfcompress.serving.layouts import check_artifact, check_name, copy, files_of


def sagemaker(
    artifact: Artifact, filepath: str | os.PathLike, name: str = "model"
) -> Path:
    """Writes `model.tar.gz` for SageMaker's TensorFlow Serving container.

    It holds `<name>/<version>/saved_model.pb` and so on. Two archives of the same
    files are equal, byte by byte.

    Use it, then upload the file to S3 and name it in `TensorFlowModel(model_data=...)`.

    Source: https://sagemaker.readthedocs.io/en/stable/frameworks/tensorflow/deploying_tensorflow_serving.html

    Args:
        artifact: a SavedModel version.
        filepath: where to write; ends in `.tar.gz`.
        name: the name of the model in the archive.

    Returns:
        The path of the archive.

    Raises:
        InvalidArgumentError: if it is no SavedModel or a name is wrong.
        ExportError: if the file exists or the disk refuses.

    Example:

    ```python
    from tfcompress.serving import sagemaker

    version = tfcompress.export(model, "savedmodels/cloud/1", format="saved_model")
    sagemaker(version, "model.tar.gz")
    ```
    """
    path = Path(filepath)
    _check(artifact, name)
    if not path.name.endswith(".tar.gz"):
        raise InvalidArgumentError(
            "SageMaker takes a model as a .tar.gz archive.",
            received=str(path),
            expected="a path that ends in .tar.gz",
        )
    with staged(path) as stage, stage.open("wb") as raw:
        # Neither time nor name of the file, so that equal models give equal archives.
        packed = gzip.GzipFile("", "wb", 9, raw, mtime=0)
        with packed, tarfile.open(fileobj=packed, mode="w") as tar:
            for file in files_of(artifact):
                part = file.relative_to(artifact.path).as_posix()
                entry = tarfile.TarInfo(f"{name}/{artifact.path.name}/{part}")
                entry.size = file.stat().st_size
                with file.open("rb") as content:
                    tar.addfile(entry, content)
    return path


def vertex_ai(artifact: Artifact, directory: str | os.PathLike) -> Path:
    """Copies a SavedModel as Vertex AI's prebuilt TensorFlow containers take it.

    `saved_model.pb` is at the top; there are no versions, which the model registry
    keeps.

    Use it, then upload the directory to Cloud Storage and give its URI as
    `artifact_uri` of `aiplatform.Model.upload`.

    Source: https://cloud.google.com/vertex-ai/docs/training/exporting-model-artifacts

    Args:
        artifact: a SavedModel version.
        directory: where to write; nothing may be there.

    Returns:
        The directory.

    Raises:
        InvalidArgumentError: if it is no SavedModel.
        ExportError: if the directory exists or the disk refuses.

    Example:

    ```python
    from tfcompress.serving import vertex_ai

    version = tfcompress.export(model, "savedmodels/vertex/1", format="saved_model")
    vertex_ai(version, "vertex")
    ```
    """
    target = Path(directory)
    _check(artifact)
    with staged(target) as stage:
        copy(artifact, stage)
    return target


def azure_ml(
    artifact: Artifact, directory: str | os.PathLike, name: str = "model"
) -> Path:
    """Writes a folder from which Azure ML starts an online endpoint with TF Serving.

    `model/<name>/<version>/`, `endpoint.yaml` and `deployment.yaml`, which names the
    container image and its routes.

    Use it, then run `az ml online-endpoint create -f endpoint.yaml` and
    `az ml online-deployment create -f deployment.yaml` in the folder.

    Source: https://learn.microsoft.com/azure/machine-learning/how-to-deploy-custom-container

    Args:
        artifact: a SavedModel version.
        directory: where to write; nothing may be there.
        name: the name of the model and of the endpoint.

    Returns:
        The directory.

    Raises:
        InvalidArgumentError: if it is no SavedModel or a name is wrong.
        ExportError: if the directory exists or the disk refuses.

    Example:

    ```python
    from tfcompress.serving import azure_ml

    version = tfcompress.export(model, "savedmodels/azure/1", format="saved_model")
    azure_ml(version, "azure", name="digits")
    ```
    """
    target = Path(directory)
    _check(artifact, name)
    with staged(target) as stage:
        version = artifact.path.name
        copy(artifact, stage / "model" / name / version)
        (stage / "endpoint.yaml").write_text(_ENDPOINT.format(name=name))
        text = _DEPLOYMENT.format(name=name, version=version, image=IMAGE)
        (stage / "deployment.yaml").write_text(text)
    return target


def _check(artifact: Artifact, name: str = "model") -> None:
    check_artifact(artifact, {"saved_model": "a SavedModel"})
    check_name(name)


_ENDPOINT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json
name: {name}-endpoint
auth_mode: key
"""

_DEPLOYMENT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: version-{version}
endpoint_name: {name}-endpoint
model:
  name: {name}
  version: {version}
  path: model
environment_variables:
  MODEL_BASE_PATH: /var/azureml-app/azureml-models/{name}/{version}/model
  MODEL_NAME: {name}
environment:
  image: {image}
  inference_config:
    liveness_route:
      port: 8501
      path: /v1/models/{name}
    readiness_route:
      port: 8501
      path: /v1/models/{name}
    scoring_route:
      port: 8501
      path: /v1/models/{name}:predict
instance_type: Standard_DS3_v2
instance_count: 1
"""
