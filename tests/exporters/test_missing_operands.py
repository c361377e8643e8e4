"""Files of .tflite whose operators lack what they need are damaged, and called so."""

import keras
import pytest

import tfcompress
from tfcompress.core.errors import ArtifactError
from tfcompress.exporters.tflite.assembling import put_together
from tfcompress.exporters.tflite.rewriting import take_apart


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    path = tmp_path_factory.mktemp("operands") / "m.tflite"
    return tfcompress.export(model, path).path.read_bytes()


@pytest.mark.export
@pytest.mark.parametrize("what", ["inputs", "outputs", "axes"])
def test_operators_without_their_operands(content, what, tmp_path):
    model = take_apart(content)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if what == "axes":
            for index in operator.inputs:
                graph.tensors[index].shape = [4]
        else:
            setattr(operator, what, [])
    path = tmp_path / "m.tflite"
    path.write_bytes(put_together(model))
    with pytest.raises(ArtifactError, match=r"m\.tflite"):
        tfcompress.load(path)
