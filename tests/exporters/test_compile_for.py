"""`compile_for`: files for the NPUs of phones, beside the one that runs everywhere."""

import json
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.child.process import WORKER
from tfcompress.core.errors import (
    ArtifactError,
    CompressionWarning,
    ExportError,
    InvalidArgumentError,
)
from tfcompress.exporters.tflite.chips import VENDORS, Target, targets_of

L = keras.layers

# The package of a vendor's libraries, which does what the file "behaviour" says.
LIBRARIES = """
import functools, os, pathlib

from ai_edge_litert.aot.core import apply_plugin
from ai_edge_litert.tools import flatbuffer_utils

PROGRAM = apply_plugin.ApplyPlugin.__call__


def path_to_sdk_libs(*_):
    behaviour = pathlib.Path(__file__).with_name("behaviour").read_text()
    if behaviour == "dies":
        os.abort()
    takes = functools.partialmethod(apply, takes=behaviour == "takes most")
    apply_plugin.ApplyPlugin.__call__ = PROGRAM if behaviour == "is empty" else takes
    return "/nowhere"


def apply(self, source, target, manufacturer, chip, takes, **options):
    content = source.model_bytes if source.in_memory else source.path.read_bytes()
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    code = type(model.operatorCodes[0])()
    code.customCode = "DISPATCH_OP"
    code.builtinCode = code.deprecatedBuiltinCode = 32
    model.operatorCodes.append(code)
    *taken, last = graph.operators
    dispatch = type(last)()
    dispatch.opcodeIndex = len(model.operatorCodes) - 1
    dispatch.inputs, dispatch.outputs = graph.inputs, taken[-1].outputs
    graph.operators = [dispatch, last] if takes else graph.operators
    target.path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder of packages, which the child process sees, too."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("qualcomm", "mediatek"):
        (folder / f"ai_edge_litert_sdk_{name}.py").write_text(LIBRARIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        WORKER.close()  # it has the search path of its beginning
        yield folder
    WORKER.close()


@pytest.fixture
def vendor(packages):
    """Says what the vendors' compilers do."""
    return (packages / "behaviour").write_text


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 3, activation="relu", name="stem")(inputs)
    x = L.Dense(3, name="logits")(L.Flatten(name="flat")(x))
    data = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    return tfcompress.finalize(tfcompress.calibrate(keras.Model(inputs, x), data))


def test_chips_are_those_of_litert():
    assert [str(one) for one in targets_of("qualcomm:sm8750")] == ["qualcomm:SM8750"]
    every = [f"{v.name}:{chip}" for v in VENDORS.values() for chip in v.chips]
    assert targets_of([*every, *every]) == targets_of(every)
    assert {one.vendor.name for one in targets_of(every)} == set(VENDORS)
    assert targets_of("Tensor G5") == (Target(VENDORS["google"], "Tensor_G5"),)
    assert targets_of("google_tensor:tensor_g5") == targets_of("google:Tensor_G5")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("qualcomm:SM8751", "'qualcomm:SM8750'"),
        ("samsung:SM8750", "'qualcomm:SM8750'"),
        ("exynos9965", "'samsung:E9965'"),
        (5, 'such as "qualcomm:SM8750"'),
        ([], "qualcomm:SM8750"),
        ([None], "nearest"),
    ],
)
def test_a_chip_that_nobody_knows(model, name, near, tmp_path):
    with pytest.raises(InvalidArgumentError, match="Unknown chip in") as error:
        tfcompress.export(model, tmp_path / "m.tflite", compile_for=name)
    assert near in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("vendor_name", VENDORS)
def test_libraries_that_are_missing_are_told_before_any_work(
    model, vendor_name, tmp_path, monkeypatch
):
    monkeypatch.setattr(tfcompress.exporters.tflite.exporter, "trace", pytest.fail)
    chosen = VENDORS[vendor_name]
    with pytest.raises(ExportError, match=f"pip install {chosen.package}") as error:
        tfcompress.export(
            model, tmp_path / "m.tflite", compile_for=f"{vendor_name}:{chosen.chips[0]}"
        )
    assert "downloads the libraries from the vendor's own server" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.export
def test_what_lies_where_and_who_computes_what(model, vendor, tmp_path):
    vendor("takes most")
    chips = ["qualcomm:SM8750", "qualcomm:SA8255", "mediatek:MT6991"]
    artifact = tfcompress.export(model, tmp_path / "m.tflite", compile_for=chips)
    first, car, other = artifact.compiled
    assert (first.chip, first.dispatches) == ("qualcomm:SM8750", 1)
    assert [(one.operator, one.layer) for one in first.left] == [
        ("DEQUANTIZE", "logits")
    ]
    assert first.share == 1 - 1 / first.operators
    plain = tfcompress.export(model, tmp_path / "plain.tflite")
    assert plain.path.read_bytes() == artifact.path.read_bytes()
    assert plain.compiled == ()
    assert tfcompress.verify(artifact, model, np.zeros((2, 8, 8, 3), "float32")).passed
    assert tfcompress.Artifact.read(artifact.path) == artifact
    # What Play takes: a folder for each phone, and one for all others; none for a car.
    found = {
        file.relative_to(tmp_path / "m_npu").as_posix()
        for file in (tmp_path / "m_npu").rglob("*")
        if file.is_file()
    }
    groups = ("Qualcomm_SM8750", "Mediatek_MT6991", "other")
    assert found == {
        *(one.path.name for one in (first, car, other)),
        "README.md",
        "ai_pack/device_targeting_configuration.xml",
        "ai_pack/m/build.gradle.kts",
        *(f"ai_pack/m/src/main/assets/model#group_{one}/m.tflite" for one in groups),
    }
    assets = tmp_path / "m_npu" / "ai_pack" / "m" / "src" / "main" / "assets"
    for group, file in zip(groups, (first.path, other.path, artifact.path)):
        asset = assets / f"model#group_{group}" / "m.tflite"
        assert asset.read_bytes() == file.read_bytes()
    said = json.loads((tmp_path / "m.tflite.manifest.json").read_text())["compiled"]
    assert [one["path"] for one in said] == [
        "m_npu/m_Qualcomm_SM8750.tflite",
        "m_npu/m_Qualcomm_SA8255.tflite",
        "m_npu/m_MediaTek_MT6991.tflite",
    ]
    # The folder is never replaced, and one that is out of date is told of.
    with pytest.raises(ExportError, match="exists already"):
        tfcompress.export(model, artifact.path, compile_for=chips, overwrite=True)
    with pytest.warns(CompressionWarning, match="compiled from the file that is repl"):
        tfcompress.export(model, artifact.path, overwrite=True)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.export
@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("dies", "LiteRT's compiler for qualcomm:SM8750 died"),
        ("is empty", "LiteRT's compiler for qualcomm:SM8750 failed"),
        ("leaves all", "takes nothing of the model"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing(
    model, vendor, behaviour, message, tmp_path
):
    vendor(behaviour)
    folder = tmp_path / "out"
    folder.mkdir()
    former = folder / "m.tflite"
    former.write_bytes(b"the former file")
    with pytest.raises(ExportError, match=message):
        tfcompress.export(model, former, compile_for="qualcomm:SM8750", overwrite=True)
    assert list(folder.iterdir()) == [former]
    assert former.read_bytes() == b"the former file"


@pytest.mark.export
def test_a_file_that_cannot_appear_takes_its_folder_back(
    model, vendor, tmp_path, monkeypatch
):
    vendor("takes most")

    def taken(*_):
        raise ExportError("Taken meanwhile.", received="m.tflite", expected="no file")

    monkeypatch.setattr("tfcompress.exporters.publishing._appear", taken)
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="Taken meanwhile"):
        tfcompress.export(
            model, tmp_path / "out" / "m.tflite", compile_for="qualcomm:SM8750"
        )
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.npu
@pytest.mark.export
def test_with_qualcomms_own_libraries(tmp_path, monkeypatch):
    """Those of the package onnxruntime-qnn, and an empty one that they do not use."""
    qnn = pytest.importorskip("onnxruntime_qnn")
    libraries, found = tmp_path / "libraries", Path(qnn.__file__).parent
    libraries.mkdir()
    for folder in (found, found.with_name("onnxruntime_qnn.libs")):
        for file in folder.glob("*.so*"):
            (libraries / file.name).symlink_to(file)
    empty = tmp_path / "empty.c"
    empty.write_text("")
    subprocess.run(
        ["cc", "-shared", "-o", libraries / "libQnnLpai.so", empty], check=True
    )
    module = libraries / "ai_edge_litert_sdk_qualcomm.py"
    module.write_text(f"def path_to_sdk_libs():\n    return {str(libraries)!r}\n")
    monkeypatch.syspath_prepend(libraries)
    WORKER.close()
    inputs = keras.Input((16, 16, 3), name="image")
    x = L.Conv2D(8, 3, activation="relu", name="stem")(inputs)
    x = keras.ops.cumsum(x, axis=1)
    x = L.GlobalAveragePooling2D(name="pool")(L.Conv2D(8, 1, name="point")(x))
    x = L.Dense(4, name="logits")(x)
    data = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype("float32")
    with pytest.warns(CompressionWarning, match="stay in float"):
        made = tfcompress.calibrate(keras.Model(inputs, x), data)
    artifact = tfcompress.export(
        tfcompress.finalize(made), tmp_path / "m.tflite", compile_for="qualcomm:SM8750"
    )
    (compiled,) = artifact.compiled
    assert compiled.dispatches == 3  # before, in and behind the casts around CUMSUM
    assert {one.operator for one in compiled.left} == {"CAST"}
    assert {one.layer for one in compiled.left} == {"cumsum"}
    with pytest.raises(ArtifactError, match="was compiled for an NPU"):
        tfcompress.load(compiled.path)
