"""Model cards say what the manifest says, and name what it does not."""

import json
import shutil

import pytest
import yaml

from tfcompress.core.errors import ArtifactError
from tfcompress.exporters import Artifact, export
from tfcompress.exporters.manifest import record
from tfcompress.exporters.manifest_file import manifest_path, read_manifest

pytestmark = pytest.mark.export


@pytest.fixture
def copied(quantized_file, tmp_path):
    """A file and its manifest, to be changed."""
    path = tmp_path / "student.tflite"
    shutil.copy(quantized_file.path, path)
    text = manifest_path(quantized_file.path).read_text(encoding="utf-8")
    text = text.replace('"quantized.tflite"', '"student.tflite"')
    manifest_path(path).write_text(text, encoding="utf-8")
    return Artifact.read(path)


def head_and_text(card):
    empty, head, text = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head), text


def gaps_of(card):
    return card.split("## What is not known")[1].split("##")[0]


def test_the_figures_are_those_of_the_manifest(quantized, copied):
    head, text = head_and_text(copied.model_card())
    assert head == {"tags": ["tfcompress", "keras", "tflite"]}
    (entry,) = read_manifest(copied)["files"]
    assert f"| student.tflite | {copied.size:,} | {entry['sha256']} |" in text
    assert f"| parameters | {quantized.count_params():,} |" in text
    # The fixture's ranges are not tfcompress's own, so nobody knows their bits.
    assert "| activations | not recorded |" in text
    assert "| work done in integers | 100.0% |" in text
    assert f"| input | {copied.inputs[0].name} | 1 x 12 x 12 x 3 | float32 |" in text
    assert "tfcompress.load('student.tflite')" in text


@pytest.mark.parametrize(
    ("bits", "shown"), [([8], "8 bits"), ([8, 16], "8 and 16 bits")]
)
def test_bits_of_activations(copied, bits, shown):
    path = manifest_path(copied.path)
    manifest = read_manifest(copied)
    manifest["model"]["activation_bits"] = bits
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert f"| activations | {shown} |" in copied.model_card()


def test_a_float_model_is_not_quantized(plain, tmp_path):
    card = export(plain, tmp_path / "plain.tflite").model_card()
    assert "| activations | not quantized |" in card


def test_what_nobody_recorded_is_said_to_be_unknown(copied):
    card = copied.model_card()
    assert "The recipe is not recorded" in card
    assert "What this model is for is not recorded." in card
    for gap in ("license", "compressed from", "trained on", "accurate", "people"):
        assert gap in gaps_of(card)
    assert "no manifest" not in gaps_of(card)


def test_what_is_told_closes_gaps(copied):
    card = copied.model_card(
        license="mit",
        datasets=["fashion_mnist"],
        base_model="clothes",
        description="Tells shirts from shoes.",
    )
    head, text = head_and_text(card)
    assert (head["license"], head["base_model"]) == ("mit", "clothes")
    assert head["datasets"] == ["fashion_mnist"]
    assert "Tells shirts from shoes." in text
    assert "accurate" in gaps_of(card)
    for gap in ("license", "compressed from", "trained on"):
        assert gap not in gaps_of(card)


def test_recipe_and_parity_are_there_once_they_are_recorded(copied):
    parity = {
        "max_abs_error": 0.25,
        "max_error_steps": 1.0,
        "agreement": 0.995,
        "samples": 1000,
        "passed": False,
        "failures": ["output 'logits' is off"],
    }
    record(copied, parity=parity, recipe={"name": "mine", "stages": [{"fit": {}}]})
    card = copied.model_card()
    assert "| samples | 1,000 |" in card
    assert "| same class | 99.50% |" in card
    assert "| passed | no |" in card
    assert "| failure | output 'logits' is off |" in card
    assert '     "name": "mine"' in card


def test_a_file_without_a_manifest_has_a_card_of_what_is_seen(copied):
    manifest_path(copied.path).unlink()
    card = Artifact.read(copied.path).model_card()
    assert "| parameters | not recorded |" in card
    assert "there is no manifest" in gaps_of(card)
    assert f"| student.tflite | {copied.size:,} | not recorded |" in card


def test_a_directory_lists_its_files(quantized_version):
    card = quantized_version.model_card()
    assert "| saved_model.pb |" in card
    name = quantized_version.inputs[0].name
    assert f"| input | {name} | any x 12 x 12 x 3 |" in card


def test_a_manifest_of_other_files_is_refused(copied):
    known = read_manifest(copied)["files"][0]["sha256"]
    path = manifest_path(copied.path)
    path.write_text(path.read_text().replace(known, "0" * 64))
    with pytest.raises(ArtifactError, match=r"student\.tflite changed since"):
        copied.model_card()


def test_names_from_a_file_are_text(copied):
    path = manifest_path(copied.path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"Conv2D": 1', '"<script>|`x`": 1'), encoding="utf-8")
    card = copied.model_card()
    assert "<script>" not in card
    assert "1 &lt;script>\\|\\`x\\`" in card
