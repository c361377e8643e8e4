"""The part of docs/quantization.md that is made from the tables says what they say."""

from tests.scripts import ROOT, load_script


def test_what_stays_in_float_is_told_as_the_tables_have_it():
    document = (ROOT / "docs/quantization.md").read_text()
    told = document.split("<!-- stays in float -->\n")[1].split("\n<!-- end -->")[0]
    made = load_script("docs/reference/stays_float.py").table()
    assert told == made, "run docs/reference/stays_float.py and put its text there"


def test_layers_that_integers_can_compute_are_not_told_to_stay():
    script = load_script("docs/reference/stays_float.py")
    layers, operations = script.layers_in_float(), script.operations_in_float()
    assert "Conv3D" in layers
    assert not {"Dense", "Conv2D", "LSTM", "Attention", "Dropout"} & set(layers)
    assert "Sort" in operations
    assert not {"Add", "Matmul", "Softmax"} & set(operations)
