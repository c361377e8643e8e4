"""Folders with a model and the Python that serves it in BentoML and in KServe."""

from __future__ import annotations

import os
from pathlib import Path
from string import Template

from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.publishing import staged
from tfcompress.serving.layouts import check_artifact, copy
from tfcompress.serving.model_repositories import check_service

_FORMATS = {
    "tflite": "a .tflite file",
    "saved_model": "a SavedModel",
    "onnx": "an ONNX file",
}
#: The name of the copy, and what tfcompress needs to run it.
_COPIES = {
    "tflite": ("model.tflite", "tfcompress"),
    "saved_model": ("model", "tfcompress"),
    "onnx": ("model.onnx", "tfcompress[onnx]"),
}


def bento_service(
    artifact: Artifact, directory: str | os.PathLike, name: str = "model"
) -> Path:
    """Writes a folder from which BentoML serves a model.

    The model, `service.py`, whose service runs it by `tfcompress.load`, and
    `bentofile.yaml`.

    Use it, then run `bentoml serve` in the folder, or `bentoml build` for a container.
    `POST /predict` takes `{"inputs": {<input>: <samples>}}` and returns the outputs by
    name. Arrays that do not fit are answered by 400 and the reason.

    Source: https://docs.bentoml.com/en/latest/build-with-bentoml/services.html

    Args:
        artifact: a .tflite file, a SavedModel or an ONNX file.
        directory: where to write; nothing may be there.
        name: the name of the service.

    Returns:
        The directory.

    Raises:
        InvalidArgumentError: if it is another artifact, or the name is wrong.
        ArtifactError: if its files are not as they were exported.
        ExportError: if the directory exists or the disk refuses.

    Example:

    ```python
    from tfcompress.serving import bento_service

    file = tfcompress.export(model, "bento.tflite")
    bento_service(file, "bento", name="digits")
    ```
    """
    texts = {"service.py": _BENTO_SERVICE, "bentofile.yaml": _BENTO_FILE}
    return _write(artifact, directory, name, texts)


def kserve_server(
    artifact: Artifact, directory: str | os.PathLike, name: str = "model"
) -> Path:
    """Writes a folder from which KServe's Python server serves a model.

    The model, `server.py`, which runs it by `tfcompress.load`, and
    `requirements.txt`.

    Use it where KServe has no runtime for the format, such as .tflite, then run
    `python server.py --http_port 8080`. It speaks the Open Inference Protocol, "v2":
    `POST /v2/models/<name>/infer`. Arrays that do not fit are answered by 400 and the
    reason. For Triton in KServe, see `kserve`.

    Source: https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/custom-predictor

    Args:
        artifact: a .tflite file, a SavedModel or an ONNX file.
        directory: where to write; nothing may be there.
        name: the name of the model.

    Returns:
        The directory.

    Raises:
        InvalidArgumentError: if it is another artifact, or the name is wrong.
        ArtifactError: if its files are not as they were exported.
        ExportError: if the directory exists or the disk refuses.

    Example:

    ```python
    from tfcompress.serving import kserve_server

    file = tfcompress.export(model, "kserve.tflite")
    kserve_server(file, "kserve_server", name="digits")
    ```
    """
    texts = {
        "server.py": _KSERVE_SERVER,
        "requirements.txt": "kserve>=0.15\n$package\n",
    }
    return _write(artifact, directory, name, texts)


def _write(
    artifact: Artifact, directory: str | os.PathLike, name: str, texts: dict[str, str]
) -> Path:
    target = Path(directory)
    check_artifact(artifact, _FORMATS)
    check_service(name)
    file, package = _COPIES[artifact.format]
    with staged(target) as stage:
        copy(artifact, stage / file)
        for path, text in texts.items():
            filled = Template(text).substitute(name=name, file=file, package=package)
            (stage / path).write_text(filled, encoding="utf-8")
    return target


_BENTO_FILE = """\
service: "service:Service"
include:
  - service.py
  - $file
python:
  packages:
    - $package
"""

_BENTO_SERVICE = '''\
"""Serves the model beside this file: `bentoml serve` in this folder."""

from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from bentoml.exceptions import InvalidArgument

import tfcompress


@bentoml.service(name="$name")
class Service:
    def __init__(self) -> None:
        # Whoever runs this code trusts the folder.
        path = Path(__file__).with_name("$file")
        self.runner = tfcompress.load(path, trusted=True)

    @bentoml.api
    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Returns the outputs by name for samples by the inputs' names."""
        try:
            arrays = {name: np.asarray(value) for name, value in inputs.items()}
        except ValueError as error:  # rows of several lengths
            raise InvalidArgument(str(error)) from error
        try:
            outputs = self.runner.run(arrays)
        except tfcompress.InvalidArgumentError as error:
            raise InvalidArgument(str(error)) from error
        return {name: value.tolist() for name, value in outputs.items()}
'''

_KSERVE_SERVER = '''\
"""Serves the model beside this file: `python server.py --http_port 8080`."""

import asyncio
from pathlib import Path

import kserve
import numpy as np
from kserve.errors import InvalidInput
from kserve.utils.numpy_codec import from_np_dtype
from kserve.utils.utils import generate_uuid

import tfcompress


class Model(kserve.Model):
    def load(self) -> bool:
        # Whoever runs this code trusts the folder.
        path = Path(__file__).with_name("$file")
        self.runner = tfcompress.load(path, trusted=True)
        self.ready = True
        return self.ready

    def get_input_types(self) -> list[dict]:
        return [described(info) for info in self.runner.inputs]

    def get_output_types(self) -> list[dict]:
        return [described(info) for info in self.runner.outputs]

    async def predict(self, payload, headers=None, response_headers=None):
        if not isinstance(payload, kserve.InferRequest):
            raise InvalidInput("This server speaks protocol v2 only: /v2/models/...")
        try:
            arrays = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        except (TypeError, ValueError) as error:  # data that do not fill their shape
            raise InvalidInput(str(error)) from error
        try:
            outputs = await asyncio.to_thread(self.runner.run, arrays)
        except tfcompress.InvalidArgumentError as error:
            raise InvalidInput(str(error)) from error
        return kserve.InferResponse(
            response_id=payload.id or generate_uuid(),
            model_name=self.name,
            infer_outputs=[
                answer(name, value, payload) for name, value in outputs.items()
            ],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


def described(info) -> dict:
    # Quantized tensors are floats for callers; a free size is -1.
    dtype = np.dtype("float32" if info.quantized else info.dtype.replace("string", "O"))
    shape = [-1 if size is None else size for size in info.shape]
    return {"name": info.name, "datatype": from_np_dtype(dtype), "shape": shape}


def answer(name, value, payload) -> kserve.InferOutput:
    datatype = from_np_dtype(value.dtype)
    output = kserve.InferOutput(name, list(value.shape), datatype)
    output.set_data_from_numpy(value, binary_data=payload.use_binary_outputs)
    return output


if __name__ == "__main__":
    model = Model("$name")
    model.load()
    kserve.ModelServer().start([model])
'''
