"""Deep Compression in one fit, and the example: how small the files really are."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.scripts import load_script

CLUSTERS = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A student after one fit with everything, and its file."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = (digits.images[..., None] / 16).astype("float32"), digits.target
    keras.utils.set_random_seed(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def network():
        return keras.Sequential(
            [
                keras.Input((8, 8, 1), name="image"),
                keras.layers.Conv2D(12, 3, activation="relu", name="conv"),
                keras.layers.Flatten(name="flatten"),
                keras.layers.Dense(80, activation="relu", name="hidden"),
                keras.layers.Dense(10, name="logits"),
            ],
            name="digits",
        )

    teacher = network()
    teacher.compile("adam", loss)
    teacher.fit(x, y, epochs=4, batch_size=64, verbose=0)
    dense = keras.models.clone_model(teacher)
    dense.set_weights(teacher.get_weights())
    scheme = tfcompress.QuantizationScheme(tfcompress.UniformQuantizer(8, "tensor"))
    student = tfcompress.quantize_aware(dense, scheme)
    distiller = tfcompress.Distiller(
        teacher, student, keras.distillation.LogitsDistillation(3.0)
    )
    distiller.compile("adam", loss)
    grow = tfcompress.PolynomialSparsity(0.0, 0.85, end_step=0.4, frequency=5)
    distiller.fit(
        x,
        y,
        epochs=5,
        batch_size=64,
        verbose=0,
        callbacks=[
            tfcompress.PruneWeights(grow, scope="layer"),
            tfcompress.ClusterWeights(CLUSTERS, begin_step=0.5),
        ],
    )
    final = tfcompress.finalize(student)
    path = tmp_path_factory.mktemp("deep") / "digits.tflite"
    artifact = tfcompress.export(final, path)
    tfcompress.verify(artifact, final, x[:200]).raise_if_failed()
    found = np.argmax(tfcompress.load(artifact)(x), axis=-1)
    return artifact, float(np.mean(found == y))


@pytest.mark.export
def test_every_kernel_has_at_most_so_many_integers(trained):
    artifact, accuracy = trained
    kernels = tfcompress.storage(artifact).layers
    assert len(kernels) == 3
    for kernel in kernels:
        assert kernel.bits == 8
        assert 2 <= kernel.values <= CLUSTERS - 1  # zero is one of the values
        assert kernel.sparsity == pytest.approx(0.85, abs=0.03)
    assert accuracy > 0.9
    assert artifact.integer_coverage == 1.0


@pytest.mark.export
def test_the_archive_is_near_the_entropy_of_what_is_stored(trained, tmp_path):
    artifact, _ = trained
    found = tfcompress.storage(artifact)
    entropy = sum(kernel.entropy_size for kernel in found.layers)
    assert entropy > 4000
    assert sum(kernel.packed_size for kernel in found.layers) <= 1.1 * entropy
    packed = tfcompress.pack(artifact, tmp_path / "digits.tfc")
    assert packed.size == found.packed_size <= 1.1 * found.entropy_size
    assert packed.size < 0.8 * artifact.gzip_size


@pytest.mark.slow
@pytest.mark.examples
@pytest.mark.export
def test_deep_compression(tmp_path, capsys):
    module = load_script("examples/deep_compression.py")
    results = module.main(smoke=True, output=str(tmp_path))
    assert set(results) == {"lenet_300_100", "lenet_5"}
    for name, found in results.items():
        assert found["original"] / found["packed"] > 30
        back = tfcompress.unpack(tmp_path / f"{name}.tfc", tmp_path / "back")
        assert back.read_bytes() == (tmp_path / f"{name}.tflite").read_bytes()
        kernels = tfcompress.storage(back).layers
        assert max(layer.values for layer in kernels) <= 15
    assert "bits a position" in capsys.readouterr().out
