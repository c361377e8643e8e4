"""TF Serving's REST API: column-wise JSON, binary values in base64."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from tfcompress.child.probing import require
from tfcompress.core.errors import InvalidArgumentError, one_line
from tfcompress.serving.failures import malformed, refused, unreachable


class Rest:
    """One model of a server, over HTTP.

    A call has `timeout` seconds in all, and goes to the user's address and nowhere
    else: an answer that redirects is an error.
    """

    def __init__(self, url: str, model: str, version: int | None, timeout: float):
        require("requests", "serving")
        parts = urlsplit(url)
        credentials, _, host = parts.netloc.rpartition("@")
        path = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        path = f"{path}/v1/models/{quote(model)}"
        # Without the password of the address: errors go to logs.
        self._path = path if version is None else f"{path}/versions/{version}"
        self._timeout, self._session = timeout, _session()
        if credentials:
            user, _, password = credentials.partition(":")
            self._session.auth = (unquote(user), unquote(password))

    def predict(self, arrays: dict[str, np.ndarray], signature: str) -> dict:
        body = {
            "signature_name": signature,
            "inputs": {name: _to_json(array) for name, array in arrays.items()},
        }
        special = [name for name, array in arrays.items() if not _is_finite(array)]
        hint = (
            f"; input {special[0]!r} holds NaN or infinite values, which TF Serving "
            "takes in JSON and other servers may not"
            if special
            else ""
        )
        answer = self._call("POST", ":predict", body, hint)
        outputs = answer.get("outputs")
        outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
        if not outputs:
            raise malformed(self._path, "no output")
        return {name: self._array(name, value) for name, value in outputs.items()}

    def signatures(self) -> Mapping[str, Any]:
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_metadata_pb2

        answer = self._call("GET", "/metadata")
        definitions = get_model_metadata_pb2.SignatureDefMap()
        try:
            found = answer["metadata"]["signature_def"]
            json_format.ParseDict(found, definitions, ignore_unknown_fields=True)
        except (LookupError, TypeError, AttributeError, json_format.Error) as error:
            raise malformed(self._path, f"no signatures: {one_line(error)}") from error
        return definitions.signature_def

    def status(self) -> dict[int, str]:
        answer = self._call("GET", "")
        try:
            found = answer["model_version_status"]
            return {int(entry["version"]): str(entry["state"]) for entry in found}
        except (LookupError, TypeError, ValueError) as error:
            raise malformed(self._path, f"no versions: {one_line(error)}") from error

    def close(self) -> None:
        self._session.close()

    def _call(
        self, method: str, path: str, body: Any = None, hint: str = ""
    ) -> dict[str, Any]:
        import requests

        # `json=` of requests refuses NaN and infinity, which TF Serving takes:
        # https://www.tensorflow.org/tfx/serving/api_rest#json_conformance
        try:
            data = None if body is None else json.dumps(body).encode()
        except TypeError as error:
            raise InvalidArgumentError(
                "An input cannot be sent as JSON.",
                received=one_line(error),
                expected="arrays of numbers, booleans, texts or bytes",
            ) from error
        try:
            answer = _Exchange(self._session, method, self._path + path, data).within(
                self._timeout
            )
        except (requests.RequestException, ValueError, OSError) as error:
            raise unreachable(self._path, one_line(error)) from error
        if answer.is_redirect or 300 <= answer.status_code < 400:
            raise refused(
                self._path,
                f"status {answer.status_code}, a redirection to "
                f"{_host(answer.headers.get('location'))}, which is not followed",
            )
        try:
            content = json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            content = None
            if answer.status_code == 200:
                raise malformed(self._path, one_line(error)) from error
        if answer.status_code != 200:
            said = content.get("error") if isinstance(content, dict) else None
            said = one_line(ValueError(said or answer.text or "no reason"))
            raise refused(self._path, f"status {answer.status_code}: {said}{hint}")
        if not isinstance(content, dict):
            raise malformed(self._path, f"JSON of type {type(content).__name__}")
        return content

    def _array(self, name: str, value: Any) -> np.ndarray:
        try:
            array = np.asarray(_decoded(value))
        except (ValueError, TypeError, RecursionError) as error:
            reason = f"output {name!r}: {one_line(error)}"
            raise malformed(self._path, reason) from error
        if array.dtype.kind == "U":
            return np.char.encode(array, "utf-8").astype(object)
        if array.dtype.kind == "S":
            return array.astype(object)
        if array.dtype.kind not in "biuf":
            raise malformed(self._path, f"output {name!r} is no array: {value!r:.60}")
        return array


class _Exchange:
    """A request and its answer, in a thread, so that a deadline ends it.

    The timeouts of `requests` are for one read each: a server that sends a byte now
    and then keeps a caller for ever.
    """

    def __init__(self, session: Any, method: str, url: str, data: bytes | None):
        self._arguments = (session, method, url, data)
        self._answer: Any = None
        self._error: BaseException | None = None
        #: What the session uses for this exchange, so that it can be ended.
        self.connection: Any = None
        self.socket: Any = None

    def within(self, seconds: float) -> Any:
        """Returns the answer with its content.

        Raises:
            requests.Timeout: if it is not whole after `seconds`.
        """
        import requests

        thread = threading.Thread(target=self._run, args=(seconds,), daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self._hang_up()
            raise requests.Timeout(f"no whole answer after {seconds} s")
        if self._error is not None:
            raise self._error
        return self._answer

    def _run(self, seconds: float) -> None:
        session, method, url, data = self._arguments
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            _waits_for.exchange = self
            self._answer = session.request(
                method,
                url,
                data=data,
                headers=headers,
                timeout=seconds,
                allow_redirects=False,
            )
        except BaseException as error:
            self._error = error
        finally:
            _waits_for.exchange = None

    def _hang_up(self) -> None:
        """Ends the thread's waiting; the connection is not used again."""
        line = self.socket or getattr(self.connection, "sock", None)
        if line is not None:
            # It may have ended meanwhile.
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


_waits_for = threading.local()


def _session() -> Any:
    """Returns a session whose connections tell their exchange when they are used."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    def noting(pool: Any) -> type:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def request(self, *arguments: Any, **options: Any) -> Any:
                exchange = getattr(_waits_for, "exchange", None)
                if exchange is not None:
                    exchange.connection = self
                super().request(*arguments, **options)
                if exchange is not None:
                    # An answer without a length takes the socket from its connection.
                    exchange.socket = self.sock

        return type(f"Noting{pool.__name__}", (pool,), {"ConnectionCls": Connection})

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = {
                "http": noting(HTTPConnectionPool),
                "https": noting(HTTPSConnectionPool),
            }

    session = requests.Session()
    for prefix in ("http://", "https://"):
        session.mount(prefix, Adapter())
    return session


def _host(address: str | None) -> str:
    return repr(urlsplit(address or "").hostname or "nowhere")


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _to_json(array: np.ndarray) -> Any:
    if array.dtype == object:
        return (
            [_to_json(np.asarray(v, object)) for v in array]
            if array.ndim
            else (
                {"b64": base64.b64encode(array.item()).decode()}
                if isinstance(array.item(), bytes)
                else array.item()
            )
        )
    return array.tolist()


def _decoded(value: Any) -> Any:
    """Returns a value of JSON with its binary values, {"b64": text}, as bytes."""
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    return value
