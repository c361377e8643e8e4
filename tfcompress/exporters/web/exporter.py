"""The "web" format: a folder with a page that runs the model in the browser."""

import html
import importlib.resources
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_folder
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tflite.exporter import TFLiteExporter

_MODEL = "model.tflite"
_PAGE = ("index.html", "model.js", "page.css", "page.js")
_PACKAGES = ("core", "wasm-utils")
_BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")
_SECONDS = 120


@EXPORTERS.register("web")
@dataclass(frozen=True)
class WebExporter(Exporter):
    """Writes a folder: model.tflite, a module that runs it in LiteRT.js, and a page.

    The page loads LiteRT.js from the folder's `litertjs/`, never from elsewhere.

    Args:
        litertjs: the folder `node_modules/@litertjs` that `npm install @litertjs/core`
            made; its packages are copied. None: to be copied later, as README.md says.
    """

    litertjs: str | None = None

    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert",)
    limits: ClassVar[Limits] = Limits(
        "LiteRT.js",
        activations=(8,),
        dynamic_batch=False,
        layers=TFLiteExporter.limits.layers,
        missing=TFLiteExporter.limits.missing,
    )

    _phone: ClassVar[TFLiteExporter] = TFLiteExporter()

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        check_folder(filepath, "A web artifact is a folder.", "student_web")
        self._litertjs()
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model as the .tflite file needs it."""
        return self._phone.source(model, input_signature, calibration_data)

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Converts the model and writes the page beside it."""
        stage.mkdir()
        _, noted = self._phone.write(source, stage / _MODEL)
        page = importlib.resources.files("tfcompress.exporters.web") / "page"
        for name in _PAGE:
            (stage / name).write_text(
                (page / name).read_text(encoding="utf-8"), encoding="utf-8"
            )
        (stage / "README.md").write_text(_README, encoding="utf-8")
        packages = self._litertjs()
        if packages is not None:
            for package in _PACKAGES:
                shutil.copytree(packages / package, stage / "litertjs" / package)
        return self.inspect(stage), noted

    def matches(self, filepath: Path) -> bool:
        """Returns whether the folder holds the model and its page."""
        return all((filepath / name).is_file() for name in (_MODEL, "model.js"))

    def inspect(self, filepath: Path) -> Artifact:
        """Returns the description of the model; LiteRT.js is not part of it."""
        artifact = TFLiteExporter().inspect(filepath / _MODEL)
        files = tuple(filepath / name for name in sorted(("README.md", _MODEL, *_PAGE)))
        return replace(artifact, path=filepath, format="web", files=files)

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner that opens the page in a headless Chromium."""
        check_files(filepath)
        return BrowserRunner(self.inspect(filepath))

    def _litertjs(self) -> Path | None:
        if self.litertjs is None:
            return None
        path = Path(self.litertjs)
        missing = [p for p in _PACKAGES if not (path / p / "package.json").is_file()]
        if missing:
            raise InvalidArgumentError(
                "The folder does not hold LiteRT.js.",
                received=f"{path} without {', '.join(missing)}",
                expected="node_modules/@litertjs",
                fix="npm install @litertjs/core",
            )
        return path


class BrowserRunner(Runner):
    """Runs the page of a web artifact in a headless Chromium, one start a call.

    Args:
        artifact: the folder's description.
    """

    def __init__(self, artifact: Artifact):
        super().__init__(artifact.inputs, artifact.outputs)
        self.name, self._folder = artifact.name, artifact.path
        self._browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
        if self._browser is None:
            raise ArtifactError(
                "There is no browser to run the page in.",
                received="no Chromium on the search path",
                expected=f"one of {', '.join(_BROWSERS)}",
                fix="install chromium-headless-shell, or load its model.tflite",
            )
        if not (self._folder / "litertjs").is_dir():
            raise ArtifactError(
                "The folder has no LiteRT.js to run the page with.",
                received=f"{self._folder} without litertjs/",
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
            return {
                info.name: np.concatenate(
                    [
                        np.asarray(sample[info.name]["values"], info.dtype).reshape(
                            sample[info.name]["shape"]
                        )
                        for sample in outputs
                    ]
                )
                for info in self.outputs
            }

        return once

    def _ask(self, samples: str) -> list[dict[str, Any]]:
        handler = partial(_Handler, samples, directory=str(self._folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/index.html?samples=samples.json"
        assert self._browser is not None
        try:
            with scratch() as profile:
                done = subprocess.run(
                    [
                        *(self._browser, "--headless", "--no-sandbox", "--disable-gpu"),
                        *(f"--user-data-dir={profile}", "--dump-dom"),
                        *(f"--virtual-time-budget={1000 * _SECONDS}", url),
                    ],
                    capture_output=True,
                    text=True,
                    timeout=_SECONDS,
                )
        except subprocess.TimeoutExpired as error:
            raise _browser_error(f"no answer in {_SECONDS} s") from error
        finally:
            server.shutdown()
            server.server_close()
        found = re.search(r'<pre id="result"[^>]*>(.*?)</pre>', done.stdout, re.DOTALL)
        try:
            answer = json.loads(html.unescape(found[1])) if found else {}
        except ValueError:
            answer = {"error": found[1] if found else ""}
        if "outputs" not in answer:
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise _browser_error(answer.get("error") or lines[-1])
        return answer["outputs"]


class _Handler(SimpleHTTPRequestHandler):
    """Serves the folder, and the samples of one call."""

    def __init__(self, samples: str, *args: Any, **kwargs: Any):
        self._samples = samples.encode()
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:  # the name that http.server calls
        if self.path.split("?")[0] != "/samples.json":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self._samples)))
        self.end_headers()
        self.wfile.write(self._samples)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _browser_error(reason: str) -> ArtifactError:
    return ArtifactError(
        "The page did not run the model.",
        received=reason,
        expected="outputs from LiteRT.js",
        fix="open index.html in a browser from a local server, and look at its console",
    )


_README = """\
# A model in the browser

`model.js` loads `model.tflite` into [LiteRT.js](https://ai.google.dev/edge/litert/web)
and runs it; `index.html` is a page to try it on. Put LiteRT.js beside them, if
`litertjs/` is not there yet:

    npm install @litertjs/core && cp -r node_modules/@litertjs litertjs

Then serve the folder, for example with `python -m http.server`; browsers do not load
WebAssembly from files. In your own page:

    import { loadModel } from "./model.js";
    const { run } = await loadModel();              // or loadModel("webgpu")
    const outputs = await run({ image: pixels });   // name of the input, flat array
    console.log(outputs.logits.values);
"""
