"""Running a web artifact in a headless Chromium that reaches this process alone."""

from __future__ import annotations

import html
import importlib.resources
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

import tfcompress.child
from tfcompress.child.process import python
from tfcompress.core.errors import ArtifactError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.runner import Runner

MODEL = "model.tflite"
PAGE = ("index.html", "model.js", "page.css", "page.js")
_SAMPLES, _LIBRARY = "samples.json", "litertjs"
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")
_SECONDS = 120
# Runs Chromium with the rights that the jail leaves; see `child/_jail.py`.
_JAILED = (
    "import os, runpy, sys; "
    "entered = runpy.run_path(sys.argv[1])['enter']"
    "(sys.argv[2], programs=True, port=int(sys.argv[3])); "
    "sys.exit('no Landlock') if not entered else os.execv(sys.argv[4], sys.argv[4:])"
)


class BrowserRunner(Runner):
    """Runs the page of a web artifact in a headless Chromium, one start a call.

    All that the browser asks for goes through the server of this class, which has the
    page, the model, LiteRT.js and the samples, and nothing else.

    Args:
        artifact: the folder's description.
        vouched: whether the folder's own page is used. If not, it is ours, and only
            the model and LiteRT.js are the folder's.
    """

    def __init__(self, artifact: Artifact, vouched: bool):
        super().__init__(artifact.inputs, artifact.outputs)
        self.name, self._folder = artifact.name, artifact.path
        self._vouched = vouched
        browser = next(filter(None, map(shutil.which, BROWSERS)), None)
        if browser is None:
            raise ArtifactError(
                "There is no browser to run the page in.",
                received="no Chromium on the search path",
                expected=f"one of {', '.join(BROWSERS)}",
                fix="install chromium-headless-shell, or load its model.tflite",
            )
        self._browser = browser
        if not (self._folder / _LIBRARY).is_dir():
            raise ArtifactError(
                "The folder has no LiteRT.js to run the page with.",
                received=f"{self._folder} without {_LIBRARY}/",
                expected="the packages of @litertjs in it",
                fix="do what the folder's README.md says",
            )

    @property
    def batch_size(self) -> int | None:
        """None: the page runs any number of samples, one after the other."""
        return None

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that runs these samples in the browser."""
        count = len(next(iter(batch.values())))
        samples = [
            {name: array[i].reshape(-1).tolist() for name, array in batch.items()}
            for i in range(count)
        ]

        def once() -> dict[str, np.ndarray]:
            outputs = self._ask(json.dumps(samples))
            try:
                return {info.name: _joined(outputs, info) for info in self.outputs}
            except (LookupError, TypeError, ValueError) as error:
                raise _browser_error(f"outputs that are none: {error}") from error

        return once

    def _ask(self, samples: str) -> list[dict[str, Any]]:
        page = importlib.resources.files("tfcompress.exporters.web") / "page"
        with importlib.resources.as_file(page) as ours, scratch() as profile:
            own = self._folder if self._vouched else ours
            handler = partial(_Handler, samples, self._folder, own)
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                done = subprocess.run(
                    self._command(profile, server.server_port),
                    capture_output=True,
                    text=True,
                    timeout=_SECONDS,
                    env={**os.environ, "HOME": profile, "TMPDIR": profile},
                )
            except subprocess.TimeoutExpired as error:
                raise _browser_error(f"no answer in {_SECONDS} s") from error
            finally:
                server.shutdown()
                server.server_close()
        if done.returncode and "no Landlock" in done.stderr:
            raise ArtifactError(
                "Chromium has no sandbox here, and the page is a stranger's.",
                received="a process of root on a system without Landlock",
                expected="another user, for whom Chromium has its sandbox",
                fix="run as another user; or, if you trust the folder, "
                "load(path, trusted=True)",
            )
        found = re.search(r'<pre id="result"[^>]*>(.*?)</pre>', done.stdout, re.DOTALL)
        try:
            answer = json.loads(html.unescape(found[1])) if found else {}
        except (ValueError, RecursionError):
            answer = {"error": found[1][:200] if found else ""}
        if not isinstance(answer, dict) or "outputs" not in answer:
            lines = done.stderr.strip().splitlines() or ["no output"]
            said = answer.get("error") if isinstance(answer, dict) else None
            raise _browser_error(said or lines[-1])
        return answer["outputs"]

    def _command(self, profile: str, port: int) -> list[str]:
        # Root has no sandbox of Chromium's.
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        command = [
            self._browser,
            *("--headless", "--disable-gpu", "--disable-dev-shm-usage"),
            *(["--no-sandbox"] if root else []),
            f"--user-data-dir={profile}",
            # Everything goes to the server here, what is for this machine too.
            f"--proxy-server=http://127.0.0.1:{port}",
            "--proxy-bypass-list=<-loopback>",
            "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
            *("--disable-background-networking", "--disable-sync", "--no-first-run"),
            *("--dump-dom", f"--virtual-time-budget={1000 * _SECONDS}"),
            f"http://127.0.0.1:{port}/index.html?samples={_SAMPLES}",
        ]
        if not root or self._vouched:
            return command
        jail = Path(tfcompress.child.__file__).with_name("_jail.py")
        return [python(), "-c", _JAILED, str(jail), profile, str(port), *command]


class _Handler(SimpleHTTPRequestHandler):
    """Serves the page, the model, LiteRT.js and the samples of one call.

    It is the browser's proxy as well, and knows no other server.
    """

    def __init__(
        self, samples: str, folder: Path, page: Path, *args: Any, **options: Any
    ):
        self._samples = samples.encode()
        self._folder, self._page = folder.absolute(), page.absolute()
        super().__init__(*args, **options)

    def do_GET(self) -> None:  # the name that http.server calls
        parts = urlsplit(self.path)
        own = f"127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        name = unquote(parts.path).lstrip("/")
        file = self._file(name) if parts.netloc in ("", own) else None
        if name == _SAMPLES and parts.netloc in ("", own):
            self._send(self._samples, "application/json")
        elif file is None:
            self.send_error(403)
        else:
            self._send(file.read_bytes(), self.guess_type(str(file)))

    def _file(self, name: str) -> Path | None:
        """Returns the file that a name stands for; None for all that is not served."""
        root = self._page if name in PAGE else self._folder
        if name not in (*PAGE, MODEL) and not name.startswith(f"{_LIBRARY}/"):
            return None
        file = root / name
        inside = file.resolve().is_relative_to(root.resolve())
        return file if inside and file.is_file() else None

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _joined(outputs: Any, info: Any) -> np.ndarray:
    parts = [
        np.asarray(sample[info.name]["values"], info.dtype).reshape(
            sample[info.name]["shape"]
        )
        for sample in outputs
    ]
    return np.concatenate(parts)


def _browser_error(reason: Any) -> ArtifactError:
    return ArtifactError(
        "The page did not run the model.",
        received=reason,
        expected="outputs from LiteRT.js",
        fix="open index.html in a browser from a local server, and look at its console",
    )
