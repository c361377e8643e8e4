"""Recipes: text and back, those that come with the package, and errors with lines."""

import json

import jsonschema
import pytest

from tfcompress import Recipe
from tfcompress.compression.recipe import schema
from tfcompress.compression.stages import (
    STAGES,
    Cluster,
    Distil,
    Factorize,
    Fit,
    Prune,
    Quantize,
    QuantizeFile,
    Shrink,
)
from tfcompress.core.errors import InvalidArgumentError

EVERY_STAGE = Recipe(
    (
        Distil(2.0, 0.3),
        Shrink(macs=0.5, criterion="random", max_layer_sparsity=0.6),
        Factorize(energy=0.9, filters="dense"),
        Prune(0.8, pattern="n_of_m", scope="layer"),
        Fit(3, 0.5),
        Quantize("w4a8", keep="logits"),
        Cluster(8, "linear"),
        Fit(1),
    ),
    "tflite",
    {"io_dtype": "int8"},
    7,
    "every: stage",
)


def test_every_stage_goes_to_text_and_back():
    of_file = Recipe((Prune(0.5), Fit(2), QuantizeFile("w8a16", samples=100)))
    assert {type(stage) for stage in EVERY_STAGE.stages + of_file.stages} == {
        STAGES.class_of(name) for name in STAGES.names()
    }
    assert Recipe.from_text(of_file.to_yaml()) == of_file
    assert Recipe.from_text(EVERY_STAGE.to_yaml()) == EVERY_STAGE
    assert Recipe.from_text(EVERY_STAGE.to_json()) == EVERY_STAGE
    assert EVERY_STAGE.epochs == 4


@pytest.mark.parametrize("name", ["r.yaml", "r.json"])
def test_files_are_read_back(tmp_path, name):
    EVERY_STAGE.save(tmp_path / name)
    assert Recipe.load(tmp_path / name) == EVERY_STAGE
    if name.endswith("json"):
        assert json.loads((tmp_path / name).read_text())["seed"] == 7


def test_the_schema_is_one_and_describes_every_stage():
    jsonschema.Draft202012Validator.check_schema(schema())
    stages = schema()["properties"]["stages"]["items"]["properties"]
    assert sorted(stages) == STAGES.names()
    assert all(stage["description"].endswith(".") for stage in stages.values())


def test_recipes_that_come_with_the_package_are_for_their_targets():
    targets = {name: Recipe.ready(name).target for name in Recipe.ready_names()}
    assert targets == {
        "browser": "web",
        "microcontroller": "micro",
        "phone": "tflite",
        "server": "saved_model",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "an empty text"),
        ("tfcompress: 1", "line 1). Received: the recipe: 'stages' is a required"),
        ("tfcompress: 2\nstages: []", "(recipe, line 1). Received: tfcompress: 1 was"),
        (
            "tfcompress: 1\nstages:\n- fit: {epochs: 1}\nepoch: 3",
            "'epoch' was unexpected",
        ),
        (
            "tfcompress: 1\nstages:\n- fit: {epochs: 1}\n- prun:\n    sparsity: 0.5",
            "line 4). Received: stages[1]: Additional properties are not allowed "
            "('prun' was unexpected). Expected: one of cluster, distil, factorize",
        ),
        (
            "tfcompress: 1\nstages:\n- prune:\n    sparsity: 1.5",
            "line 4). Received: stages[0].prune.sparsity: 1.5 is greater than",
        ),
        (
            "tfcompress: 1\nstages:\n- prune:\n    sparsities: 0.5",
            "line 4). Received: stages[0].prune: Additional properties",
        ),
        ("tfcompress: 1\nstages:\n- shrink: {}", "Stage 'shrink' needs one target"),
        ("tfcompress: 1\nstages:\n- prune: {sparsity: 0.5}", "has no fit to act in"),
        ("tfcompress: 1\ntarget: tflight\nstages: []", "one of coreml, ethos_u,"),
        ("stages: [", "line 1"),
        ("a: &x [1]\nstages: *x", "an alias"),
        ("!!python/object/apply:os.system ['true']", "could not determine"),
        ("[" * 3000 + "]" * 3000, "more than 20 levels"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, found):
    with pytest.raises(InvalidArgumentError) as caught:
        Recipe.from_text(text)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("stages", "target", "found"),
    [
        ((QuantizeFile(), Fit(1)), "tflite", "as the last stage"),
        ((QuantizeFile(), QuantizeFile()), "tflite", "as the last stage"),
        ((Quantize(), QuantizeFile()), "tflite", "without a stage 'quantize'"),
        ((QuantizeFile(),), "onnx", "changes .tflite files only.*target 'onnx'"),
    ],
)
def test_a_stage_of_the_file_is_the_end_of_a_float_recipe(stages, target, found):
    with pytest.raises(InvalidArgumentError, match=found):
        Recipe(stages, target)


def test_files_that_no_person_wrote_are_refused(tmp_path):
    (tmp_path / "large.yaml").write_bytes(b" " * 2_000_000)
    with pytest.raises(InvalidArgumentError, match="2,000,000 bytes"):
        Recipe.load(tmp_path / "large.yaml")
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        Recipe.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        Recipe.load(tmp_path / "binary.yaml")


def test_recipes_are_made_of_stages():
    with pytest.raises(InvalidArgumentError, match="made of stages"):
        Recipe(({"fit": {"epochs": 1}},))
    with pytest.raises(InvalidArgumentError, match="no recipe of this name"):
        Recipe.ready("toaster")


@pytest.mark.parametrize(
    "text", ["epochs: 1, learning_rate: .nan", "epochs: 1, learning_rate: .inf",
             "epochs: 1000000000000000000000000", "epochs: 1e400"],
)  # fmt: skip
def test_numbers_that_are_none(text):
    with pytest.raises(InvalidArgumentError, match="line 3"):
        Recipe.from_text(f"tfcompress: 1\nstages:\n- fit: {{{text}}}\n")


@pytest.mark.parametrize("criterion", ["snip", "grasp", "batch_norm_scale"])
def test_criteria_of_fits_alone_are_explained(criterion):
    text = f"- prune: {{sparsity: 0.5, criterion: {criterion}}}\n- fit: {{epochs: 1}}\n"
    with pytest.raises(InvalidArgumentError, match=r"lamp.*PruneWeights in a fit"):
        Recipe.from_text(f"tfcompress: 1\nstages:\n{text}")
