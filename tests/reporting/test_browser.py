"""The page in a headless Chromium: no complaint, and every figure can be seen."""

import json
import re
import shutil
import subprocess

import pytest

from tests.reporting.pages import FIGURES
from tfcompress.exporters.web.browser import BROWSERS

pytestmark = pytest.mark.browser

MEASURE = """<script>
const sizes = {};
for (const figure of document.querySelectorAll("figure[id]")) {
  const box = figure.querySelector("svg").getBoundingClientRect();
  sizes[figure.id] = [box.width, box.height];
}
const images = [...document.images].map((one) => one.naturalWidth);
const text = getComputedStyle(document.querySelector("svg text")).fill;
document.body.innerHTML = "<pre id=found>" + JSON.stringify({
  sizes, images, text, page: getComputedStyle(document.body).backgroundColor,
  wide: document.documentElement.scrollWidth, window: window.innerWidth,
}) + "</pre>";
</script>"""


def browse(path, folder, *arguments):
    """Returns the page as it is in the end, and what the console says."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("needs a Chromium")
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={folder}", "--enable-logging=stderr", "--v=0"),
            *(*arguments, path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def measured(page, folder, *arguments):
    """Returns what a script finds in a page that lets it run."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    path = folder / "measured.html"
    path.write_text(text.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    shown, _ = browse(path, folder / "profile", *arguments)
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', shown)[1])


def test_no_complaint(page, tmp_path):
    shown, console = browse(page, tmp_path)
    assert console == []
    for name in FIGURES:
        assert f'<figure id="{name}"' in shown
    # The names that try to run something did not.
    assert "<script" not in shown


def test_a_complaint_would_be_heard(page, tmp_path):
    broken = tmp_path / "broken.html"
    picture = '<img src="http://127.0.0.1:9/x.png"></body>'
    broken.write_text(page.read_text(encoding="utf-8").replace("</body>", picture))
    _, console = browse(broken, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)


@pytest.mark.parametrize("width", [1200, 500])
def test_everything_is_seen(page, tmp_path, width):
    found = measured(page, tmp_path, f"--window-size={width},900")
    assert list(found["sizes"]) == FIGURES
    for name, (wide, high) in found["sizes"].items():
        assert wide >= 600, name
        assert high >= 50, name
    assert found["images"] == [6, 6]
    # Wide figures scroll in themselves; the page does not.
    assert found["wide"] <= found["window"]


def test_light_and_dark(page, tmp_path):
    both = [
        measured(page, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
        for scheme in (1, 0)
    ]
    light, dark = (
        [sum(map(int, re.findall(r"\d+", found[key])[:3])) for key in ("page", "text")]
        for found in both
    )
    assert light[0] - light[1] > 300
    assert dark[1] - dark[0] > 300
