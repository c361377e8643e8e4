"""Layouts that the clouds' own TensorFlow servers take."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
from pathlib import Path

from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.manifest_file import manifest_path
from tfcompress.exporters.publishing import check_free, staged
from tfcompress.serving.configuration import IMAGE

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


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
    files = _files(artifact, name)
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
            for file in files:
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
    files, target = _files(artifact, "model"), Path(directory)
    with staged(target) as stage:
        _copy(files, artifact.path, stage)
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
    files, target = _files(artifact, name), Path(directory)
    with staged(target) as stage:
        version = artifact.path.name
        _copy(files, artifact.path, stage / "model" / name / version)
        (stage / "endpoint.yaml").write_text(_ENDPOINT.format(name=name))
        text = _DEPLOYMENT.format(name=name, version=version, image=IMAGE)
        (stage / "deployment.yaml").write_text(text)
    return target


def _files(artifact: Artifact, name: str) -> list[Path]:
    if not isinstance(artifact, Artifact) or artifact.format != "saved_model":
        raise InvalidArgumentError(
            "Only a SavedModel can be laid out for a server.",
            received=str(artifact),
            expected='what `export(..., format="saved_model")` returned',
        )
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            "Bad name of a model.",
            received=repr(name),
            expected="letters, digits and dashes, at most 63",
        )
    check_files(artifact.path)
    note = manifest_path(artifact.path)
    files = [*artifact.files, *([note] if note.is_file() else [])]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ArtifactError(
            "Files of the artifact are missing.",
            received=", ".join(missing),
            expected="the files that were exported",
        )
    return sorted(files)


def _copy(files: list[Path], root: Path, target: Path) -> None:
    check_free(target)
    for file in files:
        copy = target / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


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
