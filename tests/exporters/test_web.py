"""The web format: the folder, and the page in a headless Chromium."""

import os
import shutil

import numpy as np
import pytest

from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.exporters import export, load
from tfcompress.exporters.web.exporter import _BROWSERS

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def web(quantized, folder):
    return export(quantized, folder / "quantized_web", format="web")


def test_the_folder(web):
    assert [f.name for f in web.files] == [
        "README.md",
        "index.html",
        "model.js",
        "model.tflite",
        "page.css",
        "page.js",
    ]
    for name in ("index.html", "model.js", "page.css", "page.js"):
        # Nothing comes from elsewhere.
        assert "://" not in (web.path / name).read_text()
    assert web.inputs[0].shape == (1, 12, 12, 3)


def test_litertjs_must_be_there(quantized, web, folder, monkeypatch):
    with pytest.raises(InvalidArgumentError, match=r"without core, wasm-utils"):
        export(quantized, folder / "never", format="web", litertjs=str(folder))
    with pytest.raises(InvalidArgumentError, match="is a folder"):
        export(quantized, folder / "never.html", format="web")
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/true")
    with pytest.raises(ArtifactError, match="without litertjs/"):
        load(web)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ArtifactError, match="no Chromium"):
        load(web)


@pytest.mark.browser
def test_integers_in_the_browser_equal_litert(
    quantized, quantized_file, folder, images
):
    litertjs = os.environ.get("LITERTJS")
    if not litertjs or not any(map(shutil.which, _BROWSERS)):
        pytest.skip("needs a Chromium, and LITERTJS=.../node_modules/@litertjs")
    artifact = export(quantized, folder / "page", format="web", litertjs=litertjs)
    got = load(artifact)(images)
    assert got.shape == (50, 10)
    np.testing.assert_array_equal(got, load(quantized_file)(images))
    (artifact.path / "model.tflite").write_bytes(b"x" * 100)
    (artifact.path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"damaged|did not run"):
        load(artifact)(images)
