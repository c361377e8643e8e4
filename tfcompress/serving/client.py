"""A client of TF Serving's API, over REST or gRPC."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np

from tfcompress.child.probing import require
from tfcompress.core.arguments import integer, number, one_of
from tfcompress.core.errors import InvalidArgumentError, ServingError, one_line
from tfcompress.serving.failures import malformed, refused, unreachable
from tfcompress.serving.rest import Rest

DEFAULT = "serving_default"


class Client:
    """Calls a model on a server, over REST (`http://`) or gRPC (`grpc://`).

    Use it to ask a running server what it was asked in tests: the same arrays in, the
    same arrays out. It needs the extra `serving`.

    Source: https://www.tensorflow.org/tfx/serving/api_rest, and PredictionService and
    ModelService of tensorflow-serving-api.

    Args:
        url: "http://host:8501", "https://..." or "grpc://host:8500".
        model: the name of the model.
        version: its version; None for the one the server prefers.
        timeout: seconds until a request fails, for the whole of it.

    Example:

    ```python
    from tfcompress.serving import Client

    client = Client("http://localhost:8501", "student")
    # scores = client.predict(images)
    # names = client.predict(image_files, signature="images")["labels"]
    ```
    """

    def __init__(
        self, url: str, model: str, version: int | None = None, timeout: float = 30.0
    ):
        parts = _address(url)
        if not model or "/" in model or ".." in model:
            raise InvalidArgumentError(
                "Bad name of a model.",
                received=repr(model),
                expected="the name that models.config gives it",
            )
        if version is not None:
            integer(version, "Bad `version`.", low=1, expected="None, 1, 2, ...")
        number(timeout, "Bad `timeout`.", "(0, inf)", "seconds, above 0")
        kind = _GRPC if parts.scheme == "grpc" else Rest
        self._transport = kind(url, model, version, timeout)

    def predict(
        self, arrays: Any, signature: str = DEFAULT
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Returns the outputs for arrays: one array, or a dict by name.

        Args:
            arrays: an array for one input, else a dict by input name. Texts and files
                are arrays of `bytes` or `str`.
            signature: which signature to call.

        Raises:
            ServingError: if the server refuses, cannot be reached, gives no whole
                answer in time, redirects, or answers with what is no prediction.
        """
        if not isinstance(arrays, Mapping):
            arrays = {None: arrays}
        given = {name: _array(value) for name, value in arrays.items()}
        if None in given:
            (name,) = self._one_input(signature)
            given = {name: given[None]}
        outputs = self._transport.predict(given, signature)
        if isinstance(self._transport, Rest):
            known = self._dtypes(signature)
            outputs = {n: _typed(array, known.get(n)) for n, array in outputs.items()}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def metadata(self) -> dict[str, dict[str, dict[str, tuple[str, tuple]]]]:
        """Returns dtype and shape by signature, "inputs" or "outputs", and name.

        Raises:
            ServingError: if the server refuses, or cannot be reached.
        """
        definitions = self._transport.signatures()
        return {
            name: {
                kind: {key: _spec(info) for key, info in getattr(found, kind).items()}
                for kind in ("inputs", "outputs")
            }
            for name, found in definitions.items()
        }

    def status(self) -> dict[int, str]:
        """Returns the state of each version: "AVAILABLE", "LOADING", "END" ...

        Raises:
            ServingError: if the server refuses, or cannot be reached.
        """
        return self._transport.status()

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _dtypes(self, signature: str) -> dict[str, str]:
        """Returns the dtypes of a signature's outputs, which JSON does not say."""
        if not hasattr(self, "_known"):
            # Not every server tells.
            with contextlib.suppress(ServingError, ImportError):
                self._known = self.metadata()
        found = getattr(self, "_known", {}).get(signature, {"outputs": {}})["outputs"]
        if len(found) == 1:
            # TF Serving leaves out the name of a single output.
            found = {**found, "output": next(iter(found.values()))}
        return {name: dtype for name, (dtype, _) in found.items()}

    def _one_input(self, signature: str) -> list[str]:
        if not hasattr(self, "_known"):
            self._known = self.metadata()
        one_of(signature, "The model has no such signature.", sorted(self._known))
        names = list(self._known[signature]["inputs"])
        if len(names) != 1:
            raise InvalidArgumentError(
                "The signature has several inputs.",
                received="one array",
                expected=f"a dict with {sorted(names)}",
            )
        return names


class _GRPC:
    """PredictionService and ModelService through the official stubs."""

    def __init__(self, url: str, model: str, version: int | None, timeout: float):
        require("tensorflow_serving", "serving")
        import grpc
        from tensorflow_serving.apis import (
            model_service_pb2_grpc,
            prediction_service_pb2_grpc,
        )

        self._address, self._timeout = urlsplit(url).netloc.rpartition("@")[2], timeout
        self._model, self._version = model, version
        # The default of 4 MB is one large batch of images.
        sizes = [("grpc.max_receive_message_length", -1)]
        sizes += [("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(self._address, sizes)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(self, arrays: dict[str, np.ndarray], signature: str) -> dict:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = self._named(predict_pb2.PredictRequest())
        request.model_spec.signature_name = signature
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        reply = self._call(self._prediction.Predict, request)
        if not reply.outputs:
            raise malformed(self._address, "no output")
        try:
            return {name: tf.make_ndarray(v) for name, v in reply.outputs.items()}
        except (TypeError, ValueError) as error:
            raise malformed(self._address, one_line(error)) from error

    def signatures(self) -> Mapping[str, Any]:
        from google.protobuf.message import DecodeError
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = self._named(get_model_metadata_pb2.GetModelMetadataRequest())
        request.metadata_field.append("signature_def")
        reply = self._call(self._prediction.GetModelMetadata, request)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        try:
            whole = reply.metadata["signature_def"].Unpack(definitions)
        except DecodeError as error:
            raise malformed(self._address, one_line(error)) from error
        if not whole:
            raise malformed(self._address, "no signatures")
        return definitions.signature_def

    def status(self) -> dict[int, str]:
        from tensorflow_serving.apis import get_model_status_pb2

        request = self._named(get_model_status_pb2.GetModelStatusRequest())
        reply = self._call(self._models.GetModelStatus, request)
        names = get_model_status_pb2.ModelVersionStatus.State.Name
        try:
            return {e.version: names(e.state) for e in reply.model_version_status}
        except ValueError as error:
            raise malformed(self._address, one_line(error)) from error

    def close(self) -> None:
        self._channel.close()

    def _named(self, request: Any) -> Any:
        request.model_spec.name = self._model
        if self._version is not None:
            request.model_spec.version.value = self._version
        return request

    def _call(self, method: Any, request: Any) -> Any:
        import grpc

        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            lost = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            found = unreachable if error.code() in lost else refused
            raise found(self._address, reason) from error


def _address(url: str) -> SplitResult:
    """Returns the parts of an address that the client can use."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        said = parts._replace(query="", fragment="").geturl().rpartition("@")[2]
        if (
            parts.scheme in ("http", "https", "grpc")
            and parts.hostname
            and not parts.query
            and not parts.fragment
        ):
            return parts
    except (ValueError, AttributeError, TypeError):
        # What cannot be parsed may hold a password anywhere.
        said = f"a {type(url).__name__}"
    raise InvalidArgumentError(
        "The client cannot use this address.",
        received=said,
        expected="http://host:port, https://host:port or grpc://host:port",
    )


def _typed(array: np.ndarray, dtype: str | None) -> np.ndarray:
    """Returns an array of JSON in a dtype; numbers of an unknown one as float32."""
    if array.dtype == object or (
        dtype in ("string", None) and array.dtype != "float64"
    ):
        return array
    if dtype is not None:
        return array.astype("float32" if dtype == "bfloat16" else dtype)
    with np.errstate(over="ignore"):
        small = array.astype("float32")
    return small if np.array_equal(np.isfinite(small), np.isfinite(array)) else array


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "US":
        array = array.astype(object)
    return array.astype("float32") if array.dtype == "float64" else array


def _spec(info: Any) -> tuple[str, tuple]:
    import tensorflow as tf

    sizes = tuple(
        axis.size if axis.size >= 0 else None for axis in info.tensor_shape.dim
    )
    return tf.dtypes.as_dtype(info.dtype).name, sizes
