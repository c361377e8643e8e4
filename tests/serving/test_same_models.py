"""The models that every target runs, through REST and gRPC, float and in integers."""

import numpy as np
import pytest

from tests.exporters import same_models
from tfcompress.exporters import KerasRunner, export
from tfcompress.exporters.saved_model.warmup import WARM_UP_FILE
from tfcompress.serving import Client, write_configuration

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")
pytest.importorskip("requests", reason="needs the extra 'serving'")
pytestmark = [pytest.mark.export, pytest.mark.slow]
KINDS = ("plain", "quantized")


@pytest.fixture(scope="module")
def models():
    return {name: same_models.build(name) for name in same_models.NAMES}


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    from tests.serving.model_server import ModelServer

    folder = tmp_path_factory.mktemp("savedmodels")
    for name, model in models.items():
        for kind in KINDS:
            export(
                getattr(model, kind),
                folder / served_name(name, kind),
                format="saved_model",
                warm_up={key: value[:2] for key, value in model.samples.items()},
            )
    write_configuration(folder)
    assert len(list(folder.glob(f"*/1/{WARM_UP_FILE}"))) == len(models) * len(KINDS)
    with ModelServer(folder / "models.config", folder) as running:
        yield running


def served_name(name, kind):
    return f"{name}-{kind}".replace("_", "-")


@pytest.mark.parametrize("transport", ["rest_url", "grpc_url"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", same_models.NAMES)
def test_predict_metadata_status_and_warm_up(models, server, name, kind, transport):
    model = models[name]
    source = getattr(model, kind)
    served = served_name(name, kind)
    with Client(getattr(server, transport), served) as client:
        got = client.predict(model.samples)
        assert client.status() == {1: "AVAILABLE"}
        found = client.metadata()["serving_default"]["inputs"]
    expected = KerasRunner(source).run(model.samples)
    got = got if isinstance(got, dict) else dict.fromkeys(expected, got)
    assert sorted(got) == sorted(expected)
    for output, values in expected.items():
        assert np.abs(got[output] - values).max() <= 1e-5
    shapes = {key: (None, *value.shape[1:]) for key, value in model.samples.items()}
    assert {key: shape for key, (_, shape) in found.items()} == shapes
    assert server.models.find(served).warmed_up == 2
