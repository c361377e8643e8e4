"""Layouts of ONNX files for Triton, and for KServe, which starts Triton."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from tfcompress.core.arguments import integer
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.publishing import staged
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.serving.layouts import (
    check_artifact,
    check_name,
    copy,
    inference_service,
)

_TYPES = {
    "bfloat16": "TYPE_BF16",
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "string": "TYPE_STRING",
    **{f"int{bits}": f"TYPE_INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"TYPE_UINT{bits}" for bits in (8, 16, 32, 64)},
}
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"]+")


def triton(
    artifact: Artifact,
    directory: str | os.PathLike,
    name: str = "model",
    version: int = 1,
    max_batch_size: int = 32,
    batch_timeout_micros: int = 1000,
) -> Path:
    """Writes a model repository for NVIDIA's Triton Inference Server.

    `<name>/config.pbtxt`, with the names, types and sizes of the file's tensors, and
    `<name>/<version>/model.onnx`.

    Use it with an ONNX file, which Triton runs in ONNX Runtime, then run
    `tritonserver --model-repository=<directory>`. Triton has no TensorFlow any more.
    Where the file leaves the number of samples free, Triton puts requests together,
    and refuses those of more than `max_batch_size` samples.

    Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html

    Args:
        artifact: an ONNX file.
        directory: where to write; nothing may be there.
        name: the name of the model.
        version: the number of its version.
        max_batch_size: most samples in one call, where their number is free.
        batch_timeout_micros: how long a request waits for others, in microseconds.

    Returns:
        The directory.

    Raises:
        InvalidArgumentError: if it is no ONNX file, or a name, size or time is wrong.
        ArtifactError: if the file is not as it was exported.
        ExportError: if the directory exists or the disk refuses.

    Example:

    ```python
    from tfcompress.serving import triton

    file = tfcompress.export(model, "digits.onnx", format="onnx")
    triton(file, "model_repository", name="digits")
    ```
    """
    target = Path(directory)
    check_artifact(artifact, {"onnx": "an ONNX file"})
    check_name(name)
    integer(version, "Bad `version`.", low=1)
    integer(max_batch_size, "Bad `max_batch_size`.", low=1)
    integer(batch_timeout_micros, "Bad `batch_timeout_micros`.", low=0)
    text = _configuration(artifact, name, max_batch_size, batch_timeout_micros)
    with staged(target) as stage:
        copy(artifact, stage / name / str(version) / "model.onnx")
        (stage / name / "config.pbtxt").write_text(text, encoding="utf-8")
    return target


def kserve(
    artifact: Artifact,
    directory: str | os.PathLike,
    storage_uri: str,
    name: str = "model",
) -> Path:
    """Writes an ONNX file and the `InferenceService` that starts it in KServe.

    `models/`, a model repository as `triton` writes it, and `inferenceservice.yaml`,
    which asks for KServe's Triton runtime and the Open Inference Protocol, "v2".

    Use it, then upload what is in `models/` to `storage_uri` and run
    `kubectl apply -f inferenceservice.yaml`. Requests go to
    `/v2/models/<name>/infer`. For a SavedModel, `write_configuration` writes
    `kserve.yaml`.

    Source: https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/onnx

    Args:
        artifact: an ONNX file.
        directory: where to write; nothing may be there.
        storage_uri: where the models will be: "s3://bucket/path", "gs://bucket/path",
            "pvc://claim/path" ...
        name: the name of the model and of the service.

    Returns:
        The directory.

    Raises:
        InvalidArgumentError: if it is no ONNX file, or a name or address is wrong.
        ArtifactError: if the file is not as it was exported.
        ExportError: if the directory exists or the disk refuses.

    Example:

    ```python
    from tfcompress.serving import kserve

    file = tfcompress.export(model, "letters.onnx", format="onnx")
    kserve(file, "kserve", "s3://bucket/letters", name="letters")
    ```
    """
    target = Path(directory)
    check_artifact(artifact, {"onnx": "an ONNX file"})
    check_service(name)
    if not isinstance(storage_uri, str) or not _URI.fullmatch(storage_uri):
        raise InvalidArgumentError(
            "Bad `storage_uri`.",
            received=repr(storage_uri),
            expected="an address such as 's3://bucket/path' or 'pvc://claim/path'",
        )
    settings = ("runtime: kserve-tritonserver", "protocolVersion: v2")
    text = inference_service(name, "onnx", json.dumps(storage_uri), *settings)
    with staged(target) as stage:
        stage.mkdir()
        triton(artifact, stage / "models", name)
        (stage / "inferenceservice.yaml").write_text(text, encoding="utf-8")
    return target


def check_service(name: str) -> None:
    """Raises if Kubernetes takes no service of this name."""
    if not isinstance(name, str) or not _SERVICE.fullmatch(name):
        raise InvalidArgumentError(
            "Bad name of a service.",
            received=repr(name),
            expected="lower-case letters, digits and dashes, at most 63, "
            "and a letter first",
        )


def _configuration(artifact: Artifact, name: str, size: int, timeout: int) -> str:
    tensors = [*artifact.inputs, *artifact.outputs]
    # Triton's batches are a free first axis of all tensors, which `dims` leave out;
    # a tensor of that axis alone would have no `dims`, of which Triton wants one.
    batched = all(len(t.shape) > 1 and t.shape[0] is None for t in tensors)
    parts = [
        f"name: {json.dumps(name)}\n",
        'backend: "onnxruntime"\n',
        'default_model_filename: "model.onnx"\n',
        f"max_batch_size: {size if batched else 0}\n",
        *(_tensor("input", info, batched) for info in artifact.inputs),
        *(_tensor("output", info, batched) for info in artifact.outputs),
    ]
    if batched:
        delay = f"max_queue_delay_microseconds: {timeout}"
        parts.append(f"dynamic_batching {{ {delay} }}\n")
    return "".join(parts)


def _tensor(kind: str, info: TensorInfo, batched: bool) -> str:
    shape = info.shape[1:] if batched else info.shape
    sizes = ", ".join("-1" if size is None else str(size) for size in shape)
    # A single number has one axis for Triton, and none for the model.
    dims = f"dims: [ {sizes} ]" if shape else "dims: [ 1 ]\n  reshape { shape: [ ] }"
    # ASCII escapes of JSON are none of protobuf's text; names stay as they are.
    name = json.dumps(info.name, ensure_ascii=False)
    return f"{kind} {{\n  name: {name}\n  data_type: {_type(info)}\n  {dims}\n}}\n"


def _type(info: TensorInfo) -> str:
    if info.dtype not in _TYPES:
        raise InvalidArgumentError(
            f"Triton has no type for tensor {info.name!r}.",
            received=info.dtype,
            expected=f"one of {sorted(_TYPES)}",
        )
    return _TYPES[info.dtype]
