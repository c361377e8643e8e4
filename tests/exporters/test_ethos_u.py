"""The ethos_u format: what Vela takes, what it costs, and what is refused."""

import json

import keras
import numpy as np
import pytest

import tfcompress
from tests.exporters.every_layer import NAMES, model_of
from tfcompress import calibrate, finalize
from tfcompress.core.errors import (
    ArtifactError,
    CompressionWarning,
    ExportError,
    InvalidArgumentError,
)
from tfcompress.exporters import Artifact, EthosUExporter, NPUFigures, export, load
from tfcompress.exporters.ethos_u import chips, compiling
from tfcompress.exporters.ethos_u.chips import NPUS, chip, npu_named
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

pytest.importorskip("ethosu")
pytestmark = pytest.mark.export
L = keras.layers


@pytest.fixture(scope="module")
def board(quantized, folder):
    return export(quantized, folder / "board", format="ethos_u", npu="u55-128")


def words():
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = L.Embedding(20, 8, name="table")(ids)
    x = L.Dense(8, activation="relu", name="hidden")(L.Flatten(name="flat")(x))
    return keras.Model(ids, L.Dense(3, name="scores")(x), name="words")


@pytest.fixture(scope="module")
def reader():
    ids = np.random.default_rng(0).integers(0, 20, (64, 6)).astype("int32")
    return finalize(calibrate(words(), ids))


def test_the_folder_is_complete(board):
    names = [file.name for file in board.files]
    assert names == ["README.md", "model.tflite", "model_vela.tflite"]
    assert board.format == "ethos_u"
    assert (board.inputs[0].dtype, board.outputs[0].dtype) == ("int8", "int8")
    assert board.integer_coverage == 1.0


def test_the_compiled_file_is_for_the_npu(board):
    before, after = (
        TFLiteFile.open(board.path / name)
        for name in ("model.tflite", "model_vela.tflite")
    )
    assert [op.name for op in after.operators] == ["ethos-u"]
    assert len(before.operators) == board.npu.operators == 5


def test_figures_are_those_of_the_compiler(board):
    npu = board.npu
    assert npu.npu == "u55-128"
    assert (npu.share, npu.left) == (1.0, ())
    assert npu.memory_mode == "Shared_Sram"
    assert npu.cycles == sum(one.cycles for one in npu.layers) > 1000
    assert npu.sram == max(one.sram for one in npu.layers)
    assert npu.flash > 8 * 3 * 9  # at least the first kernel
    assert npu.milliseconds == 1000 * npu.cycles / 500e6
    names = " ".join(one.name for one in npu.layers)
    assert "logits" in names
    assert "conv2d" in names
    assert "100% of 5 operators" in str(npu)


def test_figures_are_in_the_manifest_and_read_again(board):
    manifest = json.loads((board.path / "manifest.json").read_text())
    assert NPUFigures.from_dict(manifest["npu"]) == board.npu
    assert manifest["versions"]["ethos-u-vela"]
    assert Artifact.read(board.path) == board


@pytest.mark.parametrize(
    "change",
    [
        {"cycles": "many"},
        {"clock": 0},
        {"left": 3},
        {"layers": [{"name": "a"}]},
        {"layers": [{"name": 1, "cycles": 1, "sram": 1, "macs": 1}]},
        {"unknown": 1},
    ],
)
def test_a_manifest_of_a_stranger(board, change):
    content = json.loads((board.path / "manifest.json").read_text())["npu"]
    with pytest.raises(ArtifactError, match="says of the NPU cannot be read"):
        NPUFigures.from_dict({**content, **change})


def test_the_readme_says_what_runs_where(board):
    text = (board.path / "README.md").read_text()
    assert "`AddEthosU()`" in text
    assert "nothing was measured on a board" in text
    assert f"{board.npu.layers[0].cycles:,}" in text


def test_the_integer_file_runs_here_and_equals_keras(board, quantized, images):
    expected = quantized.predict(images, verbose=0)
    steps = np.abs(load(board)(images) - expected) / board.outputs[0].scale
    assert steps.max() <= 1.001
    assert tfcompress.verify(board, quantized, images).passed


def test_a_damaged_folder_is_refused(board, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(board.path, copy)
    (copy / "model_vela.tflite").write_bytes(b"\0" * 100)
    with pytest.raises(ArtifactError, match="not as they were exported"):
        load(copy)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("npu", ["u85-256", "ethos-u65-256", *NPUS])
def test_every_npu(board, quantized, npu, tmp_path):
    found = export(quantized, tmp_path / "it", format="ethos_u", npu=npu).npu
    assert (found.npu, found.share) == (npu.removeprefix("ethos-"), 1.0)


def test_memory_modes_change_where_things_are(board, quantized, tmp_path):
    alone = export(
        quantized,
        tmp_path / "it",
        format="ethos_u",
        memory_mode="sram_only",
        system_config="Ethos_U55_Deep_Embedded",
        optimise="size",
    ).npu
    assert (alone.memory_mode, alone.clock) == ("Sram_Only", 200e6)
    assert alone.sram <= board.npu.sram


def test_activations_of_16_bits(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    model = keras.Sequential(
        [keras.Input((8, 8, 3), name="image"), L.Conv2D(4, 3, name="conv")]
    )
    final = finalize(calibrate(model, x, "w8a16"))
    artifact = export(final, tmp_path / "it", format="ethos_u")
    assert (artifact.inputs[0].dtype, artifact.npu.share) == ("int16", 1.0)
    steps = np.abs(load(artifact)(x) - final.predict(x, verbose=0))
    assert steps.max() <= 1.001 * artifact.outputs[0].scale


def test_a_float_model_is_calibrated_by_the_way(plain, tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    artifact = export(plain, tmp_path / "it", format="ethos_u", calibration_data=x)
    assert artifact.npu.share == 1.0


def test_what_stays_on_the_cpu_is_named_by_its_layer(reader, tmp_path):
    with pytest.warns(CompressionWarning, match="GATHER in 'table'.*has no GATHER"):
        artifact = export(reader, tmp_path / "it", format="ethos_u")
    npu = artifact.npu
    assert {one.layer for one in npu.left} == {"table"}
    assert 0 < npu.share < 1
    assert npu.share == 1 - len(npu.left) / npu.operators
    assert "on the CPU: " in str(npu)
    assert "GATHER" in (artifact.path / "README.md").read_text()


def test_a_part_on_the_cpu_is_refused_where_that_is_asked(reader, tmp_path):
    with pytest.raises(ExportError, match=r"for the CPU: .*GATHER in 'table'"):
        export(reader, tmp_path / "it", format="ethos_u", whole=True)
    assert list(tmp_path.iterdir()) == []


def test_a_larger_npu_takes_more(reader, tmp_path):
    artifact = export(
        reader, tmp_path / "it", format="ethos_u", npu="u85-256", whole=True
    )
    assert artifact.npu.share == 1.0


def test_a_model_without_work_for_it_is_refused(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,), name="x"), L.Identity(name="same")])
    with pytest.raises(ExportError, match="takes nothing of the model"):
        export(finalize(calibrate(model, x)), tmp_path / "it", format="ethos_u")
    assert list(tmp_path.iterdir()) == []


def test_float_models_are_refused(plain, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"in integers only.*calibrate\(mod"):
        export(plain, tmp_path / "it", format="ethos_u")
    assert list(tmp_path.iterdir()) == []


def test_free_sizes_are_refused(tmp_path):
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, L.Conv2D(4, 3, name="conv")(image))
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    final = finalize(calibrate(model, x))
    with pytest.raises(ExportError, match=r"size of every tensor.*'image' of shape"):
        export(final, tmp_path / "it", format="ethos_u")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"npu": "u55-100"}, "There is no such Ethos-U.*'u55-32'|'u55-128'"),
        ({"npu": "hexagon"}, "'u55-32' or 'u55-64'"),
        ({"npu": 128}, "Received: npu=128"),
        ({"memory_mode": "Shared_Ram"}, "Unknown `memory_mode`.*'Shared_Sram'"),
        ({"system_config": "Ethos_U65_Embedded"}, "Unknown `system_config`.*U55"),
        ({"memory_mode": "Dedicated_Sram"}, "does not fit the system's memories"),
        ({"config": "nowhere.ini"}, "memories cannot be read.*nowhere.ini"),
        ({"optimise": "speed"}, "'performance' or 'size'"),
        ({"whole": "yes"}, "true or false"),
    ],
)
def test_bad_options(quantized, tmp_path, options, text):
    with pytest.raises(InvalidArgumentError, match=text):
        export(quantized, tmp_path / "it", format="ethos_u", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_name_is_no_folder(quantized, tmp_path):
    with pytest.raises(InvalidArgumentError, match="is a folder"):
        export(quantized, tmp_path / "it.tflite", format="ethos_u")


def test_a_board_may_have_a_file_of_its_own(tmp_path):
    file = tmp_path / "board.ini"
    file.write_text(
        "[System_Config.Mine]\ncore_clock=500e6\n"
        "axi0_port=Sram\naxi1_port=OffChipFlash\n"
        "[Memory_Mode.Base]\narena_mem_area=Axi0\n"
        "[Memory_Mode.Shared]\ninherit=Memory_Mode.Base\n"
    )
    found = chip("u55-64", "mine", "shared", file)
    assert (found.system_config, found.memory_mode) == ("Mine", "Shared")
    with pytest.raises(InvalidArgumentError, match=r"expected.*|'Mine'"):
        chip("u55-64", None, "shared", file)


def test_the_names_are_those_of_vela():
    from ethosu.vela.architecture_features import Accelerator

    assert [f"ethos-{name}" for name in NPUS] == Accelerator.member_list()
    for name in NPUS:
        found = chip(name)
        assert found.config.is_file()
        assert npu_named(f"Ethos_{name.upper()}") == name


def test_a_missing_compiler_is_named(quantized, tmp_path, monkeypatch):
    from tfcompress.child import probing

    found = probing.importlib.util.find_spec
    monkeypatch.setattr(
        probing.importlib.util,
        "find_spec",
        lambda name: None if name == "ethosu" else found(name),
    )
    with pytest.raises(ExportError, match=r"pip install 'tfcompress\[ethosu\]'"):
        export(quantized, tmp_path / "it", format="ethos_u")
    assert list(tmp_path.iterdir()) == []


ENDS = {
    "dies": "import os\n    os.kill(os.getpid(), 9)",
    "waits": "import time\n    time.sleep(60)",
    "computes": "while True: pass",
    "takes memory": "bytearray(1 << 40)",
    "says no": "raise ValueError('no such operator')",
}
SAID = {
    "dies": "died or took too long; nothing was written.*SIGKILL",
    "waits": "died or took too long.*gave no answer in time",
    "computes": "died or took too long",
    "takes memory": "refused the model.*MemoryError",
    "says no": "refused the model.*no such operator",
}


@pytest.mark.parametrize("how", list(ENDS))
def test_a_compiler_that_fails(quantized, tmp_path, monkeypatch, how):
    script = tmp_path / "broken_worker.py"
    script.write_text(
        f"def fail(job):\n    {ENDS[how]}\n\n\nJOBS = {{'compile': fail}}\n"
    )
    monkeypatch.setattr(compiling, "_SCRIPT", str(script))
    monkeypatch.setattr(compiling, "SECONDS", 2)
    with pytest.raises(ExportError, match=SAID[how]):
        export(quantized, tmp_path / "it", format="ethos_u")
    assert list(tmp_path.iterdir()) == [script]


def test_options_are_in_the_manifest_as_json(quantized):
    exporter = EthosUExporter(npu="u65-256")
    again = EthosUExporter.from_config(json.loads(json.dumps(exporter.get_config())))
    assert again == exporter
    assert chips.chip(again.npu).memory_mode == "Dedicated_Sram_384KB"


def test_doctor_tells_what_stays_on_the_cpu():
    diagnosis = tfcompress.doctor(words(), "ethos_u", "w8a8", npu="u55-64")
    assert diagnosis.deployable
    assert diagnosis.npu.npu == "u55-64"
    assert 0 < diagnosis.npu.share < 1
    (gather,) = [one for one in diagnosis.findings if one.kind == "GATHER"]
    assert (gather.layer, gather.severity) == ("table", "warning")
    assert gather.problem == "stays on the CPU"
    assert str(diagnosis).startswith("will deploy (ethos_u, w8a8, in Ethos-U): u55-64:")


def test_doctor_finds_nothing_where_the_npu_takes_all(quantized, board):
    larger = tfcompress.doctor(words(), "ethos_u", "w8a8", npu="u85-256")
    assert (larger.npu.share, larger.findings) == (1.0, ())
    assert tfcompress.doctor(board, "ethos_u").npu == board.npu


def test_doctor_refuses_floats(plain):
    diagnosis = tfcompress.doctor(plain, "ethos_u")
    assert not diagnosis.deployable
    assert "Ethos-U takes integers only" in str(diagnosis)


def test_a_report_has_its_figures_and_layers(quantized, board):
    report = tfcompress.report(quantized, board)
    _, row = report.rows
    assert (row.cycles, row.sram, row.npu_share) == (
        board.npu.cycles,
        board.npu.sram,
        1.0,
    )
    text = report.to_markdown()
    assert f"## {board.name} on u55-128" in text
    for one in board.npu.layers:
        assert f"| {one.name}" in text
    assert json.loads(report.to_json())["rows"][1]["npu"]["npu"] == "u55-128"


def test_doctor_knows_from_the_table_without_a_trial():
    diagnosis = tfcompress.doctor(words(), "ethos_u", "w8a8", trial=False)
    (found,) = diagnosis.findings
    assert (found.layer, found.kind) == ("table", "Embedding")
    assert "U85 takes it" in found.problem


LAYERS_TRIED = ("Embedding", "CategoryEncoding", "AveragePooling2D", "UpSampling2D")


@pytest.mark.parametrize("npu", ["u55-128", "u85-256"])
@pytest.mark.parametrize(
    "name",
    [
        *LAYERS_TRIED,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in NAMES
            if name not in LAYERS_TRIED
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::tfcompress.core.errors.CompressionWarning")
def test_the_table_says_which_layers_stay_on_the_cpu(name, npu, tmp_path):
    model, rng = model_of(name), np.random.default_rng(0)
    samples = [
        rng.integers(0, 2, (16, *one.shape[1:])).astype("int32")
        if "int" in str(one.dtype)
        else rng.normal(size=(16, *one.shape[1:])).astype("float32")
        for one in model.inputs
    ]
    try:
        final = finalize(calibrate(model, samples if samples[1:] else samples[0]))
        artifact = export(final, tmp_path / "it", format="ethos_u", npu=npu)
    except tfcompress.CompressionError as error:
        pytest.skip(str(error))  # no integer form, or no operator at all
    refused = EthosUExporter.limits.layers.get(name, "")
    taken = not refused or ("U85 takes it" in refused and npu.startswith("u85"))
    assert (artifact.npu.share == 1.0) == taken, artifact.npu


@pytest.mark.parametrize("clock", ["core_clock=fast", "core_clock=-5", ""])
def test_a_board_without_a_clock_is_refused(clock, tmp_path):
    text = chips._ini().read_text(encoding="utf-8")
    lines = [
        clock if line.startswith("core_clock") else line for line in text.split("\n")
    ]
    (tmp_path / "board.ini").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match="clock"):
        chip("u55-128", config=tmp_path / "board.ini")


def _board(folder, old, new):
    """Returns Arm's file with a mistake in it."""
    text = chips._ini().read_text(encoding="utf-8")
    file = folder / "board.ini"
    file.write_text(text.replace(old, new), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("axi0_port=Sram", "axi0_port=Srm", "axi0_port='Srm' in .*Sram or Dram or"),
        ("area=Axi0", "area=Axi2", "arena_mem_area='Axi2' in .*Shared.*Axi0 or Axi1"),
        ("arena_mem_area", "arena_area", "not know.*arena_area='Axi0'.*arena_mem_area"),
        ("_burst_length=32", "_burst_length=3%", "Sram_burst_length='3%'.*whole numb"),
        ("_scale=1.0", "_scale=nan", "Sram_clock_scale='nan' in .*a number"),
        ("cache_mem", "inherit=Base\ncache_mem", "no section.*inherit='Base'"),
    ],
)
def test_a_mistake_in_the_file_of_a_board_is_named(old, new, said, tmp_path):
    file = _board(tmp_path, old, new)
    with pytest.raises(InvalidArgumentError, match=f"(?s){said}") as caught:
        chip("u55-128", config=file)
    assert str(file) in str(caught.value)


def test_memories_that_do_not_fit_are_no_fault_of_the_model(quantized, tmp_path):
    file = _board(tmp_path, "cache_mem_area=Axi0", "cache_mem_area=Axi1")
    with pytest.raises(ExportError, match="cache_mem_area=OffChipFlash") as caught:
        export(quantized, tmp_path / "it", format="ethos_u", config=file)
    assert "Memory_Mode.Shared_Sram" in str(caught.value)
    assert str(file) in str(caught.value)
    assert "the model" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]
