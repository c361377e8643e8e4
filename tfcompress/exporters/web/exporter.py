"""The "web" format: a folder with a page that runs the model in the browser."""

import importlib.resources
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_folder
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tflite.exporter import TFLiteExporter
from tfcompress.exporters.web.browser import MODEL, PAGE, BrowserRunner

_PACKAGES = ("core", "wasm-utils")


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
        _, noted = self._phone.write(source, stage / MODEL)
        page = importlib.resources.files("tfcompress.exporters.web") / "page"
        for name in PAGE:
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
        return all((filepath / name).is_file() for name in (MODEL, "model.js"))

    def inspect(self, filepath: Path) -> Artifact:
        """Returns the description of the model; LiteRT.js is not part of it."""
        artifact = TFLiteExporter().inspect(filepath / MODEL)
        files = tuple(filepath / name for name in sorted(("README.md", MODEL, *PAGE)))
        return replace(artifact, path=filepath, format="web", files=files)

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner that opens a page in a headless Chromium: our own, around
        the model of a folder that this process has not made."""
        vouched = check_files(filepath)
        return BrowserRunner(self.inspect(filepath), vouched)

    def trusted_runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner that opens the folder's own page."""
        check_files(filepath)
        return BrowserRunner(self.inspect(filepath), True)

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
