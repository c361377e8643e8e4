"""Trees as students: soft ones in Keras, boosted ones in scikit-learn."""

import sys
import warnings

import keras
import numpy as np
import pytest

import tfcompress
from tests.distillation.conftest import dense_model
from tests.distillation.test_distiller import compiled_loss, softmax
from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.students.boosted_trees import (
    BoostedTrees,
    distill_into_trees,
)
from tfcompress.distillation.students.tree import SoftDecisionTree


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def tree(rng):
    tree = SoftDecisionTree(depth=2, num_classes=3, penalty=0.5)
    tree(np.zeros((1, 2, 2), "float32"))
    for weight in tree.weights:
        weight.assign(rng.normal(size=weight.shape))
    return tree


def test_output_is_the_log_of_the_mixture_of_leaves(tree, rng):
    x = rng.normal(size=(5, 2, 2)).astype("float32")
    kernel, bias = (w.numpy() for w in tree.splits.weights)
    p = sigmoid(x.reshape(5, 4) @ kernel + bias)
    ways = np.stack(
        [
            (1 - p[:, 0]) * (1 - p[:, 1]),
            (1 - p[:, 0]) * p[:, 1],
            p[:, 0] * (1 - p[:, 2]),
            p[:, 0] * p[:, 2],
        ],
        axis=-1,
    )
    expected = np.log(ways @ softmax(tree.leaves.numpy()))
    np.testing.assert_allclose(tree(x), expected, rtol=1e-4, atol=1e-5)
    tree(x, training=True)
    share = [p[:, 0].mean()]
    for node, arriving in ((1, 1 - p[:, 0]), (2, p[:, 0])):
        share.append((arriving * p[:, node]).sum() / arriving.sum())
    terms = [0.5 * (np.log(a) + np.log(1 - a)) for a in share]
    penalty = -0.5 * (terms[0] + 0.5 * (terms[1] + terms[2]))
    assert float(sum(tree.losses)) == pytest.approx(penalty, rel=1e-4)


def test_path_and_rules_say_what_the_tree_does(tree):
    x = np.ones((2, 2), "float32")
    way = tree.path(x)
    kernel, bias = (w.numpy() for w in tree.splits.weights)
    p = sigmoid(x.ravel() @ kernel + bias)
    ways = [(1 - p[0]) * (1 - p[1]), (1 - p[0]) * p[1], p[0] * (1 - p[2]), p[0] * p[2]]
    assert way.leaf == int(np.argmax(ways))
    assert np.prod(way.confidence) == pytest.approx(max(ways), rel=1e-5)
    assert way.nodes == (0, 1 + way.went_right[0])
    leaf = softmax(tree.leaves.numpy()[way.leaf])
    assert (way.predicted, way.probability) == (
        leaf.argmax(),
        pytest.approx(leaf.max()),
    )
    lines = tree.rules(["a", "b", "c", "d"], terms=2).splitlines()
    assert len(lines) == 3 * 2 + 4
    assert sum(line.strip().startswith("class") for line in lines) == 4
    assert lines[0].endswith(f"{bias[0]:+.2f} > 0:")
    assert (
        lines[-1]
        .strip()
        .startswith(f"class {softmax(tree.leaves.numpy()[0]).argmax()}")
    )


def test_plot_of_a_path(tree, tmp_path):
    x = np.ones((2, 2), "float32")
    figure = tree.plot_path(x, str(tmp_path / "path.png"), ["ant", "bee", "cat"])
    way = tree.path(x)
    titles = [axis.get_title() for axis in figure.axes]
    sides = ["right" if right else "left" for right in way.went_right]
    assert titles == [
        "input",
        *(
            f"node {n}\n{s}, {c:.2f}"
            for n, s, c in zip(way.nodes, sides, way.confidence)
        ),
        f"leaf {way.leaf}\n{['ant', 'bee', 'cat'][way.predicted]}",
    ]
    low, high = figure.axes[1].images[0].get_clim()
    kernel = tree.splits.kernel.numpy()[:, list(way.nodes)]
    assert -low == high == pytest.approx(np.abs(kernel).max())
    shown = [bar.get_width() for bar in figure.axes[-1].patches]
    held = np.sort(softmax(tree.leaves.numpy()[way.leaf]))
    np.testing.assert_allclose(shown, held, rtol=1e-5)
    assert (tmp_path / "path.png").stat().st_size > 1000
    flat = SoftDecisionTree(2, 3)
    flat(np.zeros((1, 5), "float32"))
    bars = flat.plot_path(np.arange(5.0)).axes[1].patches
    node = flat.splits.kernel.numpy()[:, 0]
    np.testing.assert_allclose([bar.get_height() for bar in bars], node)


def test_a_path_in_words(tree):
    way = tree.path(np.ones((2, 2), "float32"))
    first = f"{'right' if way.went_right[0] else 'left'} at node 0"
    assert str(way).startswith(f"{first} ({way.confidence[0]:.2f}), ")
    assert str(way).endswith(
        f"-> leaf {way.leaf}: class {way.predicted} ({way.probability:.2f})"
    )
    assert "class bee" in tree.rules(class_names=["bee"] * 3)


def test_tree_learns_from_a_teacher_and_is_saved(rng, tmp_path):
    x = rng.normal(size=(256, 4)).astype("float32")
    y = (x[:, 0] > 0) + (x[:, 0] > 0) * (x[:, 1] > 0)
    teacher = dense_model(32, 1)
    teacher.compile(keras.optimizers.Adam(0.02), compiled_loss())
    teacher.fit(x, y, epochs=20, verbose=0)
    tree = SoftDecisionTree(depth=3, num_classes=3)
    distiller = Distiller(teacher, tree, "soft_labels")
    distiller.compile(keras.optimizers.Adam(0.1), compiled_loss(), metrics=["accuracy"])
    distiller.fit(x, y, epochs=15, verbose=0)
    assert distiller.evaluate(x, y, verbose=0)[1] > 0.9
    followed = np.asarray([tree.path(one).predicted for one in x])
    assert (followed == y).mean() > 0.85
    tree.save(tmp_path / "tree.keras")
    loaded = keras.models.load_model(tmp_path / "tree.keras")
    np.testing.assert_allclose(loaded(x), tree(x), rtol=1e-6)
    tree.export(tmp_path / "tree", verbose=False)
    served = keras.layers.TFSMLayer(str(tmp_path / "tree"), call_endpoint="serve")
    np.testing.assert_allclose(served(x), tree(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth": 0}, r"depth of a tree. Received: 0. Expected: an int in \[1, 12\]"),
        ({"num_classes": 1}, r"num_classes of a tree. Received: 1"),
        ({"penalty": -1.0}, "Wrong penalty"),
    ],
)
def test_bad_trees(kwargs, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SoftDecisionTree(**{"depth": 2, "num_classes": 3, **kwargs})


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda tree: SoftDecisionTree(2, 3).rules(), "asks no questions yet.*fit it"),
        (lambda tree: SoftDecisionTree(2, 3).path(np.zeros(4)), "no questions yet"),
        (lambda tree: tree.path(np.zeros((5, 2, 2))), r"20 numbers.*4 numbers.*x\[0\]"),
        (lambda tree: tree.rules(["a", "b"]), "`feature_names`.*2 names.*4 names"),
        (lambda tree: tree.rules(class_names="ab"), "`class_names`.*2 names.*3 names"),
    ],
)
def test_bad_questions_to_a_tree(ask, message, tree):
    with pytest.raises(InvalidArgumentError, match=message):
        ask(tree)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x * np.nan, "NaN or infinity"),
        (lambda x: x[:0], "no samples"),
        (lambda x: x[:, :3], "Input 'x' has the wrong shape"),
    ],
)
def test_bad_data_for_boosted_trees(spoil, message):
    pytest.importorskip("sklearn")
    inputs = keras.Input((4,), name="x")
    teacher = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(InvalidArgumentError, match=message):
        distill_into_trees(teacher, spoil(np.ones((8, 4), "float32")))


def test_boosted_trees_answer_like_the_teacher(rng, tmp_path):
    pytest.importorskip("sklearn")
    x = rng.normal(size=(300, 2, 2)).astype("float32")
    inputs = keras.Input((2, 2))
    hidden = keras.layers.Dense(8, "relu")(keras.layers.Flatten()(inputs))
    teacher = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    trees = distill_into_trees(teacher, x, n_estimators=60, random_state=0)
    assert trees.fidelity > 0.9
    theirs = teacher.predict(x, verbose=0)
    agreement = (trees.predict(x).argmax(-1) == theirs.argmax(-1)).mean()
    assert agreement > 0.85
    pytest.importorskip("skl2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = trees.export_onnx(tmp_path / "trees.onnx")
    session = onnxruntime.InferenceSession(path)
    (served,) = session.run(["output"], {"input": x.reshape(300, 4)})
    np.testing.assert_allclose(served, trees.predict(x), atol=1e-4)
    with pytest.raises(ExportError, match="file exists"):
        trees.export_onnx(path)


def test_packages_that_are_missing(monkeypatch, tmp_path):
    trees = BoostedTrees(None, 1.0)
    for package in ("skl2onnx", "sklearn.ensemble"):
        monkeypatch.setitem(sys.modules, package, None)
    advice = r"not installed.*pip install 'tfcompress\[trees\]'"
    with pytest.raises(ExportError, match="skl2onnx.*" + advice):
        trees.export_onnx(tmp_path / "trees.onnx")
    with pytest.raises(InvalidArgumentError, match="scikit-learn.*" + advice):
        distill_into_trees(dense_model(4), np.zeros((8, 4), "float32"))


def test_boosted_trees_need_one_flat_output(rng):
    pytest.importorskip("sklearn")
    inputs = keras.Input((4,))
    teacher = keras.Model(inputs, [keras.layers.Dense(2)(inputs) for _ in range(2)])
    with pytest.raises(InvalidArgumentError, match="one flat output"):
        distill_into_trees(teacher, np.zeros((8, 4), "float32"))


def test_a_tree_that_was_called_exports_and_goes_to_integers(tree, rng, tmp_path):
    x = rng.normal(size=(32, 2, 2)).astype("float32")
    artifact = tfcompress.export(tree, tmp_path / "tree.tflite")
    assert tfcompress.verify(artifact, tree, x).passed
    inputs = keras.Input((2, 2), name="x")
    around = keras.Model(inputs, tree(keras.layers.Dense(2, name="before")(inputs)))
    for model in (tree, around):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tfcompress.CompressionWarning)
            final = tfcompress.finalize(tfcompress.calibrate(model, x))
        expected = model.predict(x, verbose=0)
        difference = final.predict(x, verbose=0) - expected
        assert np.abs(difference).max() < 0.1 * np.ptp(expected)
