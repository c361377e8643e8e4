"""Configuration files for TF Serving, and manifests that start it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from tfcompress.core.arguments import integer
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.publishing import staged
from tfcompress.serving.layouts import inference_service
from tfcompress.serving.versions import versions

#: Docker Hub's official image.
IMAGE = "tensorflow/serving:2.18.0"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def write_configuration(
    base: str | os.PathLike,
    models: list[str] | None = None,
    max_batch_size: int = 32,
    batch_timeout_micros: int = 1000,
    root: str = "/models",
) -> list[Path]:
    """Writes what TF Serving needs to serve the models of a directory.

    `models.config`, `batching_parameters.txt`, `monitoring_config.txt`, and ways to
    start it: `docker-compose.yaml`, `kubernetes.yaml`, `kserve.yaml`.

    Use it once the first version of a model is in `<base>/<model>/1`. Files that are
    there already are replaced, each at once.

    Source: https://www.tensorflow.org/tfx/serving/serving_config

    Args:
        base: the directory with one directory for each model.
        models: their names; None for all that have a version.
        max_batch_size: most samples that a server puts together in one call.
        batch_timeout_micros: how long a request waits for others, in microseconds.
        root: where `base` is mounted in the container.

    Returns:
        The files.

    Raises:
        InvalidArgumentError: if a name, size or time is wrong, or a model is missing.

    Example:

    ```python
    from tfcompress.serving import write_configuration

    files = write_configuration("savedmodels")
    ```
    """
    base = Path(base)
    names = sorted(_with_versions(base) if models is None else models)
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidArgumentError(
                "A model cannot be served under this name everywhere.",
                received=repr(name),
                expected="lower-case letters, digits and dashes, at most 63",
                fix="rename its directory",
            )
        if name not in _with_versions(base):
            raise InvalidArgumentError(
                "The directory has no version of this model.",
                received=f"{base / name}",
                expected=f"<version>/saved_model.pb in one of {_with_versions(base)}",
            )
    if not names:
        raise InvalidArgumentError(
            "There is no model in this directory.",
            received=str(base),
            expected="<model>/<version>/saved_model.pb",
        )
    for label, value, least in (
        ("max_batch_size", max_batch_size, 1),
        ("batch_timeout_micros", batch_timeout_micros, 0),
    ):
        integer(value, f"Bad `{label}`.", low=least)
    texts = {
        "models.config": _models_config(names, root),
        "batching_parameters.txt": _batching(max_batch_size, batch_timeout_micros),
        "monitoring_config.txt": _MONITORING,
        "docker-compose.yaml": _compose(root),
        "kubernetes.yaml": _kubernetes(root),
        "kserve.yaml": "---\n".join(
            inference_service(name, "tensorflow", f"pvc://models/{name}")
            for name in names
        ),
    }
    for name, text in texts.items():
        with staged(base / name, overwrite=True) as stage:
            stage.write_text(text, encoding="utf-8")
    return [base / name for name in texts]


def _with_versions(base: Path) -> list[str]:
    entries = base.iterdir() if base.is_dir() else []
    return sorted(e.name for e in entries if e.is_dir() and versions(e))


def _models_config(names: list[str], root: str) -> str:
    entries = [
        "  config {\n"
        f"    name: {json.dumps(name)}\n"
        f"    base_path: {json.dumps(f'{root}/{name}')}\n"
        '    model_platform: "tensorflow"\n'
        "    model_version_policy { latest { num_versions: 1 } }\n"
        "  }\n"
        for name in names
    ]
    return "model_config_list {\n" + "".join(entries) + "}\n"


def _batching(size: int, timeout: int) -> str:
    return (
        f"max_batch_size {{ value: {size} }}\n"
        f"batch_timeout_micros {{ value: {timeout} }}\n"
        "num_batch_threads { value: 4 }\n"
        "max_enqueued_batches { value: 100 }\n"
    )


_MONITORING = """\
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""


def _arguments(root: str) -> list[str]:
    return [
        f"--model_config_file={root}/models.config",
        "--model_config_file_poll_wait_seconds=60",
        "--enable_batching=true",
        f"--batching_parameters_file={root}/batching_parameters.txt",
        f"--monitoring_config_file={root}/monitoring_config.txt",
    ]


def _compose(root: str) -> str:
    arguments = "\n".join(f"      - {argument}" for argument in _arguments(root))
    return f"""\
# docker compose up; or, without compose:
# docker run -p 8500:8500 -p 8501:8501 -v "$PWD:{root}:ro" {IMAGE} \\
#   {" ".join(_arguments(root))}
services:
  serving:
    image: {IMAGE}
    ports:
      - "8500:8500"  # gRPC
      - "8501:8501"  # REST and metrics
    volumes:
      - .:{root}:ro
    command:
{arguments}
"""


def _kubernetes(root: str) -> str:
    arguments = "\n".join(f"            - {argument}" for argument in _arguments(root))
    return f"""\
# Fill the claim `models` with this directory.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: tensorflow-serving
spec:
  replicas: 2
  selector:
    matchLabels:
      app: tensorflow-serving
  template:
    metadata:
      labels:
        app: tensorflow-serving
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "8501"
        prometheus.io/path: /monitoring/prometheus/metrics
    spec:
      containers:
        - name: serving
          image: {IMAGE}
          args:
{arguments}
          ports:
            - containerPort: 8500
              name: grpc
            - containerPort: 8501
              name: http
          readinessProbe:
            tcpSocket:
              port: 8501
          resources:
            requests:
              cpu: "1"
              memory: 512Mi
          volumeMounts:
            - name: models
              mountPath: {root}
              readOnly: true
      volumes:
        - name: models
          persistentVolumeClaim:
            claimName: models
---
apiVersion: v1
kind: Service
metadata:
  name: tensorflow-serving
spec:
  selector:
    app: tensorflow-serving
  ports:
    - name: grpc
      port: 8500
    - name: http
      port: 8501
"""
