"""Layouts for Triton and KServe hold what the ONNX file is."""

import keras
import numpy as np
import pytest
import yaml
from google.protobuf import text_format

import tfcompress
from tests.exporters import same_models
from tests.serving.protos import ModelConfig
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.serving import kserve, triton
from tfcompress.serving.model_repositories import _configuration

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytestmark = pytest.mark.export
L = keras.layers


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    return tfcompress.export(same_models.two_inputs(), path, format="onnx")


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {"query": rng.normal(size=(3, 8)), "context": rng.normal(size=(3, 4))}


def parsed(folder, name):
    text = (folder / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, ModelConfig())


def tensors(parts):
    types = ModelConfig.DESCRIPTOR.file.enum_types_by_name["DataType"]
    return {
        part.name: (types.values_by_number[part.data_type].name, [*part.dims])
        for part in parts
    }


def assert_same_answers(found, file, arrays):
    expected = tfcompress.load(file).run(arrays)
    got = tfcompress.load(found).run(arrays)
    assert sorted(got) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)


def test_a_model_repository(file, arrays, tmp_path):
    folder = triton(
        *(file, tmp_path / "repository"),
        name="letters",
        version=3,
        max_batch_size=16,
        batch_timeout_micros=500,
    )
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == [
        *("letters", "letters/3", "letters/3/model.onnx", "letters/config.pbtxt"),
    ]
    config = parsed(folder, "letters")
    assert (config.name, config.backend) == ("letters", "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    floats = "TYPE_FP32"
    assert tensors(config.input) == {"query": (floats, [8]), "context": (floats, [4])}
    assert tensors(config.output) == {"scores": (floats, [3]), "gate": (floats, [2])}
    assert_same_answers(folder / "letters/3/model.onnx", file, arrays)


def test_a_batch_of_one_size(tmp_path):
    keras.utils.set_random_seed(0)
    model = same_models.residual()
    path = tmp_path / "one.onnx"
    one = tfcompress.export(model, path, format="onnx", batch_size=2)
    config = parsed(triton(one, tmp_path / "repository"), "model")
    # 0: the sizes of the tensors are whole, and nothing is put together.
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert tensors(config.input) == {"image": ("TYPE_FP32", [2, 8, 8, 3])}
    assert tensors(config.output) == {"logits": ("TYPE_FP32", [2, 5])}


@pytest.mark.parametrize(
    ("inputs", "size", "dims", "reshaped"),
    [
        ([("x", (None, None, 4), "int64")], 32, [-1, 4], False),
        ([("x", (None,), "uint8")], 0, [-1], False),
        ([("x", (None, 2), "string"), ("y", (3, 4), "bool")], 0, [-1, 2], False),
        ([("x", (), "bfloat16"), ("y", (None, 4), "int8")], 0, [1], True),
    ],
)
def test_sizes(tmp_path, inputs, size, dims, reshaped):
    given = tuple(TensorInfo(*info) for info in inputs)
    answer = (TensorInfo("a/b:0 'ü\"", (None, 1), "float16"),)
    file = Artifact(tmp_path / "m.onnx", "onnx", given, answer, ())
    text = _configuration(file, "m", 32, 0)
    config = text_format.Parse(text, ModelConfig())
    assert config.max_batch_size == size
    assert [*config.input[0].dims] == dims
    assert config.input[0].HasField("reshape") == reshaped
    assert [*config.input[0].reshape.shape] == []
    assert config.output[0].name == answer[0].name


def test_every_type_is_one_of_tritons():
    from tfcompress.serving.model_repositories import _TYPES

    types = ModelConfig.DESCRIPTOR.file.enum_types_by_name["DataType"]
    assert {*_TYPES.values()} == {*types.values_by_name} - {"TYPE_INVALID"}


def test_an_inference_service(file, arrays, tmp_path):
    uri = "pvc://models/letters"
    folder = kserve(file, tmp_path / "kserve", uri, name="letters")
    service = yaml.safe_load((folder / "inferenceservice.yaml").read_text())
    assert service == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "letters"},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "runtime": "kserve-tritonserver",
                    "protocolVersion": "v2",
                    "storageUri": uri,
                }
            }
        },
    }
    assert parsed(folder / "models", "letters").name == "letters"
    assert_same_answers(folder / "models/letters/1/model.onnx", file, arrays)


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (triton, {"name": "../x"}, "name of a model"),
        (triton, {"name": 3}, "name of a model"),
        (triton, {"version": 0}, "`version`"),
        (triton, {"max_batch_size": 0}, "`max_batch_size`"),
        (triton, {"batch_timeout_micros": -1}, "`batch_timeout_micros`"),
        (kserve, {"storage_uri": "/models"}, "`storage_uri`"),
        (kserve, {"storage_uri": 's3://a"\nb'}, "`storage_uri`"),
        (kserve, {"storage_uri": "s3://a", "name": "Digits"}, "name of a service"),
        (kserve, {"storage_uri": "s3://a", "name": "3d"}, "name of a service"),
    ],
)
def test_bad_options(file, tmp_path, write, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        write(file, tmp_path / "there", **options)
    assert list(tmp_path.iterdir()) == []


def test_other_artifacts(file, tmp_path):
    keras.utils.set_random_seed(0)
    phone = tfcompress.export(same_models.residual(), tmp_path / "m.tflite")
    with pytest.raises(InvalidArgumentError, match=r'(?s)ONNX file.*format="onnx"'):
        triton(phone, tmp_path / "t")
    with pytest.raises(InvalidArgumentError, match="Only an ONNX file"):
        kserve(phone, tmp_path / "k", "s3://bucket")
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        triton(file, tmp_path / "there")
    assert not (tmp_path / "t").exists()
    assert not (tmp_path / "k").exists()


def test_a_file_that_has_changed(tmp_path):
    copy = tfcompress.export(same_models.residual(), tmp_path / "m.onnx", format="onnx")
    copy.path.write_bytes(copy.path.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="not as they were exported"):
        triton(copy, tmp_path / "t")
    copy.path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        triton(copy, tmp_path / "t")
