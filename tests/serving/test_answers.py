"""Servers that answer late, elsewhere, or with what is no prediction."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import tfcompress
from tfcompress.core.errors import ServingError
from tfcompress.serving import Client

INPUTS = {"x": np.ones((1, 4), "float32")}


@contextlib.contextmanager
def server(answer):
    """A server on loopback whose every request `answer(handler)` answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with contextlib.suppress(OSError):
                answer(self)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def says(body, status=200):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drips(beginning):
    """Sends `beginning`, then a byte every tenth of a second."""

    def answer(handler):
        handler.wfile.write(beginning)
        for _ in range(300):
            handler.wfile.write(b"a")
            handler.wfile.flush()
            time.sleep(0.1)

    return answer


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n",
    ],
    ids=["status", "header", "body", "length", "chunk"],
)
def test_a_deadline_for_the_whole_call(beginning):
    before = threading.active_count()
    with server(drips(beginning)) as address:
        client = Client(f"http://{address}", "m", timeout=0.5)
        begin = time.monotonic()
        with pytest.raises(ServingError, match="in time"):
            client.predict(INPUTS)
        assert time.monotonic() - begin < 5
    for _ in range(100):
        if threading.active_count() <= before:
            return
        time.sleep(0.1)
    pytest.fail("a thread of the call stays")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirects(status):
    got = []

    def elsewhere(handler):
        got.append(handler.body)
        says(b'{"outputs": [42]}')(handler)

    with server(elsewhere) as other:

        def answer(handler):
            handler.send_response(status)
            handler.send_header("Location", f"http://{other}/delete?all=1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with server(answer) as address:
            client = Client(f"http://{address}", "m", timeout=5)
            for call in (lambda: client.predict(INPUTS), client.status):
                with pytest.raises(ServingError, match="redirection to"):
                    call()
    assert not got


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"null",
        b"7",
        b"{}",
        b"<html>",
        b"\xff\xfe",
        b'{"outputs": null}',
        b'{"outputs": {}}',
        b'{"outputs": {"a": null}}',
        b'{"outputs": [[1, null]]}',
        b'{"outputs": [[1, 2], [3]]}',
        b'{"outputs": [{"a": 1}]}',
        b'{"outputs": [{"b64": "?"}]}',
        b'{"outputs": [{"b64": 3}]}',
        b'{"outputs": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"[" * 100000,
    ],
)
def test_answers_that_are_no_predictions(body):
    with server(says(body)) as address:
        client = Client(f"http://{address}", "m", timeout=5)
        for call in (lambda: client.predict(INPUTS), client.status, client.metadata):
            with pytest.raises(ServingError):
                call()


@pytest.mark.parametrize(
    "body",
    [
        b'{"model_version_status": [{"version": "x", "state": "END"}]}',
        b'{"model_version_status": [3]}',
        b'{"metadata": {"signature_def": 3}}',
        b'{"metadata": {"signature_def": {"signature_def": {"a": {"inputs": 3}}}}}',
    ],
)
def test_answers_that_are_no_states(body):
    with server(says(body)) as address:
        client = Client(f"http://{address}", "m", timeout=5)
        for call in (client.status, client.metadata):
            with pytest.raises(ServingError):
                call()


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"error": 3}', b"<html>", b"null"])
@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_refusals_of_any_form(body, status):
    with server(says(body, status)) as address:
        client = Client(f"http://{address}", "m", timeout=5)
        with pytest.raises(ServingError, match=f"status {status}"):
            client.predict(INPUTS)


def test_nan_is_sent_and_named_where_it_is_refused():
    special = {"sensor": np.array([[np.nan, np.inf, -np.inf, 1]], "float32")}

    def echo(handler):
        says(b'{"outputs": %s}' % json.dumps(inputs(handler)).encode())(handler)

    def inputs(handler):
        return json.loads(handler.body)["inputs"]["sensor"]

    with server(echo) as address:
        found = Client(f"http://{address}", "m", timeout=5).predict(special)
    np.testing.assert_array_equal(found, special["sensor"])
    with server(says(b'{"error": "bad JSON"}', 400)) as address:
        client = Client(f"http://{address}", "m", timeout=5)
        with pytest.raises(ServingError, match="'sensor' holds NaN"):
            client.predict(special)


def test_binary_values_are_bytes():
    with server(says(b'{"outputs": {"a_bytes": [{"b64": "AAH/"}]}}')) as address:
        found = Client(f"http://{address}", "m", timeout=5).predict(INPUTS)
    assert found.tolist() == [b"\x00\x01\xff"]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_password_in_messages(scheme):
    client = Client(f"{scheme}://user:hunter2@127.0.0.1:9", "m", timeout=2)
    for call in (lambda: client.predict(INPUTS), client.status):
        with pytest.raises(ServingError) as caught:
            call()
        assert "hunter2" not in str(caught.value)


def test_the_password_of_an_address_is_used():
    got = []

    def answer(handler):
        got.append(handler.headers["Authorization"])
        says(b'{"outputs": [1]}')(handler)

    with server(answer) as address:
        Client(f"http://user:hunter%32@{address}", "m", timeout=5).predict(INPUTS)
    assert set(got) == {"Basic dXNlcjpodW50ZXIy"}


@pytest.mark.parametrize(
    "address",
    [
        "ftp://user:hunter2@host",
        "http://user:hunter2@",
        "http://user:hunter2@host:port",
        "http://user:hunter2@host:99999999",
        "http://user:hunter2@host?token=hunter2",
        "user:hunter2@host",
        None,
        7,
    ],
)
def test_bad_addresses(address):
    with pytest.raises(tfcompress.InvalidArgumentError, match="address") as caught:
        Client(address, "m")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), None, "3"])
def test_bad_timeouts(timeout):
    with pytest.raises(tfcompress.InvalidArgumentError, match="timeout"):
        Client("http://localhost:1", "m", timeout=timeout)


def test_what_json_cannot_say():
    client = Client("http://127.0.0.1:9", "m", timeout=1)
    with pytest.raises(tfcompress.InvalidArgumentError, match="sent as JSON"):
        client.predict({"x": np.ones(3, "complex64")})


@pytest.mark.parametrize(
    ("kind", "dtype", "values"),
    [
        ("DT_DOUBLE", "float64", [1 / 3, 1e300]),
        ("DT_FLOAT", "float32", [1 / 3, 2.0]),
        ("DT_INT32", "int32", [1, 2]),
        ("DT_BOOL", "bool", [True, False]),
    ],
)
def test_dtypes_are_those_of_the_signature(kind, dtype, values):
    signature = {"outputs": {"y": {"dtype": kind, "tensor_shape": {"dim": []}}}}
    told = {"signature_def": {"signature_def": {"serving_default": signature}}}

    def answer(handler):
        found = {"metadata": told} if not handler.body else {"outputs": values}
        says(json.dumps(found).encode())(handler)

    with server(answer) as address:
        found = Client(f"http://{address}", "m", timeout=5).predict(INPUTS)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.array(values, dtype))


def test_numbers_of_an_unknown_dtype_stay_finite():
    with server(says(b'{"outputs": [1e300, 0.5]}')) as address:
        found = Client(f"http://{address}", "m", timeout=5).predict(INPUTS)
    assert found.tolist() == [1e300, 0.5]
