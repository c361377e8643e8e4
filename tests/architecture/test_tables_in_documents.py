"""Parts of documents that are made from the table of layer types say what it says."""

import pytest

from tests.scripts import ROOT, load_script


@pytest.mark.parametrize(
    ("document", "script", "mark"),
    [
        ("quantization.md", "stays_float", "stays in float"),
        ("shrink.md", "channel_rules", "channel rules"),
    ],
)
def test_a_document_says_what_the_table_has(document, script, mark):
    text = (ROOT / "docs" / document).read_text()
    told = text.split(f"<!-- {mark} -->\n")[1].split("\n<!-- end -->")[0]
    path = f"docs/reference/{script}.py"
    assert told == load_script(path).table(), f"run {path} and put its text there"


def test_layers_that_integers_can_compute_are_not_told_to_stay():
    script = load_script("docs/reference/stays_float.py")
    layers, operations = script.layers_in_float(), script.operations_in_float()
    assert "Conv3D" in layers
    assert not {"Dense", "Conv2D", "LSTM", "Attention", "Dropout"} & set(layers)
    assert "Sort" in operations
    assert not {"Add", "Matmul", "Softmax"} & set(operations)
