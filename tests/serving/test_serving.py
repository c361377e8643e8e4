"""TF Serving's API by the official messages: versions, signatures, REST, gRPC."""

import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tests.exporters import same_models
from tfcompress.core.errors import (
    ArtifactError,
    ExportError,
    InvalidArgumentError,
    ServingError,
)
from tfcompress.exporters import ServingSignatures, export, load
from tfcompress.exporters.saved_model.warmup import WARM_UP_FILE, read_warm_up
from tfcompress.serving import (
    Client,
    azure_ml,
    rollback,
    sagemaker,
    versions,
    vertex_ai,
    write_configuration,
)

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")
pytest.importorskip("requests", reason="needs the extra 'serving'")
pytestmark = pytest.mark.export
LABELS = ("coat", "bag", "boot", "shirt", "dress")
SIGNATURES = ServingSignatures(LABELS, top=3, image_scale=1 / 255, image_offset=-0.5)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 8, 8, 3)).astype("uint8")


def as_input(images):
    return images.astype("float32") / 255 - 0.5


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return same_models.residual()


@pytest.fixture(scope="module")
def two_inputs():
    keras.utils.set_random_seed(1)
    return same_models.two_inputs()


@pytest.fixture(scope="module")
def base(model, two_inputs, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("savedmodels")
    export(
        model,
        folder / "clothes",
        format="saved_model",
        signatures=SIGNATURES,
        warm_up=as_input(images),
        tflite=True,
    )
    export(two_inputs, folder / "two-inputs", format="saved_model")
    write_configuration(folder)
    return folder


@pytest.fixture(scope="module")
def server(base):
    from tests.serving.model_server import ModelServer

    with ModelServer(base / "models.config", base) as running:
        yield running


@pytest.fixture(params=["rest_url", "grpc_url"])
def url(server, request):
    return getattr(server, request.param)


def test_one_array(url, model, images):
    x = as_input(images)
    with Client(url, "clothes") as client:
        got = client.predict(x)
    assert got.dtype == np.float32
    assert np.abs(got - model.predict(x, verbose=0)).max() <= 1e-5


def test_several_inputs_and_outputs(url, two_inputs):
    rng = np.random.default_rng(0)
    arrays = {"query": rng.normal(size=(3, 8)), "context": rng.normal(size=(3, 4))}
    with Client(url, "two-inputs", version=1) as client:
        got = client.predict(arrays)
        with pytest.raises(InvalidArgumentError, match=r"\['context', 'query'\]"):
            client.predict(arrays["query"])
    expected = two_inputs.predict([arrays["query"], arrays["context"]], verbose=0)
    assert sorted(got) == ["gate", "scores"]
    for name, value in expected.items():
        assert np.abs(got[name] - value).max() <= 1e-5


def classes(model, images):
    """The three best labels and their probabilities, computed with NumPy."""
    scores = model.predict(as_input(images), verbose=0)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    best = np.argsort(-scores, -1)[:, :3]
    names = np.array([label.encode() for label in LABELS], object)[best]
    return names, np.take_along_axis(scores, best, -1)


def test_labels_and_probabilities(url, model, images):
    with Client(url, "clothes") as client:
        got = client.predict(as_input(images), signature="classify")
    names, probabilities = classes(model, images)
    assert got["labels"].tolist() == names.tolist()
    assert np.abs(got["probabilities"] - probabilities).max() <= 1e-5


def test_encoded_images(url, model, images):
    files = np.array([tf.io.encode_png(i).numpy() for i in images], object)
    with Client(url, "clothes") as client:
        got = client.predict(files, signature="images")
    names, probabilities = classes(model, images)
    assert got["labels"].tolist() == names.tolist()
    assert np.abs(got["probabilities"] - probabilities).max() <= 1e-5


def test_metadata_and_status(url):
    with Client(url, "clothes") as client:
        found = client.metadata()
        assert client.status() == {1: "AVAILABLE"}
    assert sorted(found) == ["classify", "images", "serving_default"]
    default = found["serving_default"]
    assert default["inputs"] == {"image": ("float32", (None, 8, 8, 3))}
    assert default["outputs"] == {"logits": ("float32", (None, 5))}
    assert found["images"]["inputs"] == {"image_bytes": ("string", (None,))}


def test_instances_and_inputs_are_the_same(server, two_inputs):
    import requests

    rng = np.random.default_rng(0)
    query, context = rng.normal(size=(2, 8)), rng.normal(size=(2, 4))
    path = f"{server.rest_url}/v1/models/two-inputs:predict"
    rows = [
        {"query": q.tolist(), "context": c.tolist()} for q, c in zip(query, context)
    ]
    by_row = requests.post(path, json={"instances": rows}).json()["predictions"]
    columns = {"query": query.tolist(), "context": context.tolist()}
    by_column = requests.post(path, json={"inputs": columns}).json()["outputs"]
    for name, value in by_column.items():
        assert [row[name] for row in by_row] == value
    assert len(by_row) == 2


def test_warm_up_is_replayed(server, base, images):
    requests = read_warm_up(base / "clothes" / "1" / WARM_UP_FILE)
    assert len(requests) == len(images)
    assert requests[0].model_spec.name == "clothes"
    first = tf.make_ndarray(requests[2].inputs["image"])
    np.testing.assert_array_equal(first, as_input(images[2:3]))
    assert server.models.find("clothes").warmed_up == len(images)


def test_a_tflite_file_beside_it(base, model, images):
    got = load(base / "clothes" / "1" / "model.tflite")(as_input(images))
    assert np.abs(got - model.predict(as_input(images), verbose=0)).max() <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "call", "message"),
    [
        (("nobody",), lambda c: c.status(), "nobody"),
        (("clothes", 9), lambda c: c.metadata(), "9"),
        (
            ("clothes",),
            lambda c: c.predict({"wrong": np.zeros((1, 8, 8, 3))}),
            "wrong",
        ),
        (("clothes",), lambda c: c.predict({"image": np.zeros((1, 9))}), "refused"),
        (
            ("clothes",),
            lambda c: c.predict({"image_bytes": [b"no image"]}, "images"),
            "Unknown image file format",
        ),
    ],
)
def test_what_the_server_refuses(url, arguments, call, message):
    with Client(url, *arguments) as client, pytest.raises(ServingError, match=message):
        call(client)


def test_what_the_client_refuses(url):
    client = Client(url, "clothes")
    with client, pytest.raises(InvalidArgumentError, match=r"'nothing'.*serving_def"):
        client.predict(np.zeros((1, 8, 8, 3)), signature="nothing")
    for bad in ("localhost:8501", "ftp://x", "http://"):
        with pytest.raises(InvalidArgumentError, match="address"):
            Client(bad, "clothes")
    with pytest.raises(InvalidArgumentError, match="name of a model"):
        Client(url, "../clothes")
    with pytest.raises(InvalidArgumentError, match="`version`"):
        Client(url, "clothes", version=0)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_nobody_listens(address):
    client = Client(address, "m", timeout=2)
    with client, pytest.raises(ServingError, match="cannot be reached"):
        client.status()


def test_publish_and_roll_back_while_serving(model, images, tmp_path):
    from tests.serving.model_server import ModelServer

    x = as_input(images)
    base = tmp_path / "clothes"
    export(model, base, format="saved_model", warm_up=x[:2])
    write_configuration(tmp_path)
    good = model.predict(x, verbose=0)
    worse = keras.models.clone_model(model)
    running = ModelServer(tmp_path / "models.config", tmp_path)
    with running, Client(running.grpc_url, "clothes") as client:
        export(worse, base, format="saved_model")
        running.models.poll()
        assert np.abs(client.predict(x) - good).max() > 1e-3
        back = rollback(base)
        assert versions(base) == [1, 2, 3]
        running.models.poll()
        assert np.abs(client.predict(x) - good).max() <= 1e-5
        assert client.status() == {1: "END", 2: "END", 3: "AVAILABLE"}
    assert running.models.find("clothes").warmed_up == 2
    old = {f.name: f.read_bytes() for f in (base / "1").rglob("*") if f.is_file()}
    new = {f.name: f.read_bytes() for f in back.path.rglob("*") if f.is_file()}
    assert old == new


def test_rollback_to_nowhere(model, tmp_path):
    export(model, tmp_path / "clothes", format="saved_model")
    with pytest.raises(InvalidArgumentError, match="no such version"):
        rollback(tmp_path / "clothes")
    with pytest.raises(InvalidArgumentError, match=r"no such version.*7"):
        rollback(tmp_path / "clothes", 7)
    with pytest.raises(ArtifactError, match="no model base"):
        versions(tmp_path / "nothing")
    graph = tmp_path / "clothes" / "1" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="not as they were exported"):
        rollback(tmp_path / "clothes", 1)
    assert versions(tmp_path / "clothes") == [1]


def test_configuration(base):
    yaml = pytest.importorskip("yaml")
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    from tests.serving.protos import BatchingParameters, MonitoringConfig

    parsed = text_format.Parse(
        (base / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    entries = parsed.model_config_list.config
    assert [e.name for e in entries] == ["clothes", "two-inputs"]
    assert entries[0].base_path == "/models/clothes"
    assert entries[0].model_version_policy.latest.num_versions == 1
    compose = yaml.safe_load((base / "docker-compose.yaml").read_text())
    serving = compose["services"]["serving"]
    assert serving["image"].startswith("tensorflow/serving:")
    assert "--model_config_file=/models/models.config" in serving["command"]
    deployment, service = yaml.safe_load_all((base / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == serving["image"]
    assert {p["port"] for p in service["spec"]["ports"]} == {8500, 8501}
    kserve = list(yaml.safe_load_all((base / "kserve.yaml").read_text()))
    assert [k["metadata"]["name"] for k in kserve] == ["clothes", "two-inputs"]
    batching = text_format.Parse(
        (base / "batching_parameters.txt").read_text(), BatchingParameters()
    )
    assert batching.max_batch_size.value == 32
    assert batching.batch_timeout_micros.value == 1000
    monitoring = text_format.Parse(
        (base / "monitoring_config.txt").read_text(), MonitoringConfig()
    )
    assert monitoring.prometheus_config.enable
    path = deployment["spec"]["template"]["metadata"]["annotations"][
        "prometheus.io/path"
    ]
    assert monitoring.prometheus_config.path == path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ["../clothes"]}, "cannot be served under this name"),
        ({"models": ["nobody"]}, "no version of this model"),
        ({"max_batch_size": 0}, "`max_batch_size`"),
        ({"batch_timeout_micros": -1}, "`batch_timeout_micros`"),
    ],
)
def test_bad_configuration(base, options, message):
    before = (base / "models.config").read_text()
    with pytest.raises(InvalidArgumentError, match=message):
        write_configuration(base, **options)
    assert (base / "models.config").read_text() == before


def test_clouds(base, model, images, tmp_path):
    yaml = pytest.importorskip("yaml")
    version = tfcompress.Artifact.read(base / "clothes")
    x = as_input(images)
    expected = model.predict(x, verbose=0)

    archive = sagemaker(version, tmp_path / "model.tar.gz", name="clothes")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "s", filter="data")
    got = load(tmp_path / "s" / "clothes" / "1")(x)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    again = sagemaker(version, tmp_path / "again.tar.gz", name="clothes")
    assert archive.read_bytes() == again.read_bytes()

    folder = vertex_ai(version, tmp_path / "vertex")
    assert (folder / "saved_model.pb").is_file()
    np.testing.assert_allclose(load(folder)(x), expected, atol=1e-5)

    folder = azure_ml(version, tmp_path / "azure", name="clothes")
    deployment = yaml.safe_load((folder / "deployment.yaml").read_text())
    assert deployment["environment_variables"]["MODEL_NAME"] == "clothes"
    got = load(folder / deployment["model"]["path"] / "clothes" / "1")(x)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_clouds_refuse(base, tmp_path):
    version = tfcompress.Artifact.read(base / "clothes")
    phone = tfcompress.Artifact.read(base / "clothes" / "1" / "model.tflite")
    with pytest.raises(InvalidArgumentError, match="Only a SavedModel"):
        vertex_ai(phone, tmp_path / "v")
    with pytest.raises(InvalidArgumentError, match=r"\.tar\.gz"):
        sagemaker(version, tmp_path / "model.zip")
    with pytest.raises(InvalidArgumentError, match="name of a model"):
        azure_ml(version, tmp_path / "a", name="../x")
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        vertex_ai(version, tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        (ServingSignatures(("a", "b")), "labels do not fit"),
        (ServingSignatures(LABELS, top=0), "`top`"),
    ],
)
def test_bad_signatures(model, tmp_path, signatures, message):
    with pytest.raises(InvalidArgumentError, match=message):
        export(model, tmp_path / "m", format="saved_model", signatures=signatures)
    assert not (tmp_path / "m").exists()


def test_images_need_a_model_of_images(two_inputs, tmp_path):
    with pytest.raises(InvalidArgumentError, match="does not take images"):
        export(
            two_inputs,
            tmp_path / "m",
            format="saved_model",
            signatures=ServingSignatures(image_scale=1.0),
        )
