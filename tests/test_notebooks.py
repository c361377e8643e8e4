"""The notebooks run from the top, and what they hold was printed by such a run."""

import json
import re

import pytest

from tests.scripts import ROOT, load_script

NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
#: What the last outputs of each must say.
SAID = {
    "a_budget": r"work done in integers \| 100\.0%",
    "first_compression": r"<th>integer ops</th><td>-</td><td>100%</td>",
    "your_model_to_android": r"class Digits\(model: ByteBuffer",
}


def printed(notebook):
    """Returns all that a notebook's cells put out, as one text."""
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", ())]
    texts = [
        [one["text"]] if "text" in one else one["data"].values() for one in outputs
    ]
    # A list of lines in the file, and one text where a notebook was just run.
    return "\n".join("".join(text) for several in texts for text in several)


@pytest.mark.examples
@pytest.mark.export
# What Jupyter's own packages warn of, in this process.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = load_script("examples/notebooks/execute.py").executed(path, tmp_path)
    assert re.search(SAID[path.stem], printed(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_what_one_run_printed(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    text = printed(notebook)
    assert re.search(SAID[path.stem], text)
    assert re.findall(r"(?<![\w.])/(?:tmp|home|root|work)/\S*", text) == []
