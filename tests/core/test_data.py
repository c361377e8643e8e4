"""Data as people hold them: every form is read the same by every function."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tfcompress.core.arrays import by_name
from tfcompress.core.data import columns_of, inputs_of, pairs_of
from tfcompress.core.errors import CompressionWarning, InvalidArgumentError

L = keras.layers
COUNT, BATCH = 70, 16


class Sequence(keras.utils.PyDataset):
    """Batches by number, as people write them; never raises IndexError."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return -(-COUNT // BATCH)

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        cut = keras.tree.map_structure(lambda a: a[part], self.arrays)
        return cut if len(cut) > 1 else cut[0]


class Folder:
    """Batches that someone's own class gives, anew each time."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def cut(structure):
    parts = [slice(i, i + BATCH) for i in range(0, COUNT, BATCH)]
    return [keras.tree.map_structure(lambda a: a[p], structure) for p in parts]  # noqa: B023


def forms(x, y):
    """Everything that holds these inputs; `x` may be a structure."""
    w = np.ones(COUNT, "float32")
    batches = cut((x, y, w))

    def tensors(structure):
        def tuples(part):  # a list is one tensor to tf.data
            return tuple(part) if isinstance(part, list) else part

        whole = isinstance(structure, tuple)
        structure = tuple(map(tuples, structure)) if whole else tuples(structure)
        return tf.data.Dataset.from_tensor_slices(structure)

    return {
        "x": x,
        "pair": (x, y),
        "triple": (x, y, w),
        "list of x": [b[0] for b in batches],
        "list of pairs": [b[:2] for b in batches],
        "list of triples": batches,
        "list of list pairs": [list(b[:2]) for b in batches],
        "list of tensors": keras.tree.map_structure(tf.convert_to_tensor, batches),
        "x of tensors": keras.tree.map_structure(tf.convert_to_tensor, x),
        "dataset": tensors(x).batch(BATCH),
        "dataset of pairs": tensors((x, y)).batch(BATCH),
        "dataset of triples": tensors((x, y, w)).batch(BATCH),
        "sequence": Sequence(x),
        "sequence of pairs": Sequence(x, y),
        "own class": Folder(batches),
    }


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(COUNT, 3)).astype("float32")
    other = rng.normal(size=(COUNT, 4)).astype("float32")
    return x, other, rng.integers(0, 2, COUNT)


@pytest.fixture(scope="module")
def single():
    return keras.Sequential([keras.Input((3,), name="x"), L.Dense(2)])


def two_inputs(structure=list):
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    inputs = {"a": a, "b": b} if structure is dict else [a, b]
    return keras.Model(inputs, L.Dense(2)(L.Concatenate()([a, b])))


FORMS = tuple(forms(np.zeros((COUNT, 3)), np.zeros(COUNT)))


def read(data, model):
    batches = [keras.tree.flatten(batch) for batch in inputs_of(data, model)]
    return [np.concatenate(column) for column in zip(*batches)]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_all_samples_of_one_input(form, samples, single):
    x, _, y = samples
    data = forms(x, y)[form]
    (column,) = read(data, single)
    np.testing.assert_array_equal(column, x)
    np.testing.assert_array_equal(columns_of(data, single.inputs)["x"], x)
    assert columns_of(data, single.inputs, at_most=5)["x"].shape == (5, 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [tuple, list, dict])
@pytest.mark.parametrize("model", [two_inputs(), two_inputs(dict)])
def test_every_form_gives_all_samples_of_two_inputs(form, kind, model, samples):
    a, b, y = samples
    x = {"b": b, "a": a} if kind is dict else kind([a, b])
    data = forms(x, y)[form]
    columns = read(data, model)
    np.testing.assert_array_equal(columns[0], a)
    np.testing.assert_array_equal(columns[1], b)
    model(next(iter(inputs_of(data, model))))  # as the model takes them
    named = columns_of(data, model.inputs)
    np.testing.assert_array_equal(named["b"], b)


def test_a_tuple_of_as_many_arrays_as_inputs_is_the_inputs(samples):
    a, b, _ = samples
    for data in ((a, b), [a, b], [(a[:30], b[:30]), (a[30:], b[30:])]):
        first, second = read(data, two_inputs())
        np.testing.assert_array_equal(first, a)
        np.testing.assert_array_equal(second, b)


def test_an_autoencoders_pair_is_no_list_of_batches(samples, single):
    x = samples[0]
    assert len(read((x, x), single)[0]) == COUNT
    assert len(read([x, x], single)[0]) == 2 * COUNT


def test_lists_of_numbers_of_samples_and_of_words_are_arrays(single):
    rows = [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(read(rows, single)[0], rows)
    np.testing.assert_array_equal(read([np.array(r) for r in rows], single)[0], rows)
    words = keras.Input((1,), dtype="string", name="words")
    model = keras.Model(words, L.Hashing(5)(words))
    column = read(["good", "bad"], model)[0]
    assert column.tolist() == [["good"], ["bad"]]


def test_columns_of_a_table_may_lack_their_last_axis():
    ports = {n: keras.Input((1,), name=n) for n in ("age", "fare")}
    model = keras.Model(ports, L.Dense(1)(L.Concatenate()(list(ports.values()))))
    table = {"age": np.arange(5), "fare": np.arange(5.0)}
    dataset = tf.data.Dataset.from_tensor_slices((table, np.zeros(5))).batch(2)
    for data in (table, dataset, (table, np.zeros(5))):
        assert [c.shape for c in read(data, model)] == [(5, 1), (5, 1)]


def test_a_batch_size_that_is_part_of_the_model_is_kept(single):
    inputs = keras.Input(batch_shape=(8, 3))
    model = keras.Model(inputs, L.Dense(2)(inputs))
    with pytest.warns(CompressionWarning, match=r"the last 4 of 20 samples"):
        data = inputs_of(np.zeros((20, 3)), model)
    assert [len(batch) for batch in data] == [8, 8]
    with pytest.raises(InvalidArgumentError, match=r"Received: 5 samples. Expected: 8"):
        inputs_of([np.zeros((5, 3))], model)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda x: None, "`data` cannot be read. Received: NoneType"),
        (lambda x: "train.npz", "cannot be read. Received: str"),
        (lambda x: lambda: iter(x), "call it and pass list"),
        (lambda x: (b for b in [x]), "read only once.*pass list\\(data\\)"),
        (lambda x: zip([x], [x]), "read only once"),
        (lambda x: [], "is empty"),
        (lambda x: x[:0], "is empty"),
        (lambda x: [x[:0]], "is empty"),
        (lambda x: tf.data.Dataset.from_tensor_slices(x), r"needs `\.batch\(32\)`"),
        (lambda x: tf.data.Dataset.from_tensor_slices((x, x)), "looks like a single"),
        (lambda x: tf.data.Dataset.from_tensor_slices(x).batch(9).repeat(), "never"),
        (lambda x: x[:, :2], r"'x' has the wrong shape. Received: shape \(70, 2\)"),
        (lambda x: (x, x, x, x), "does not fit the model's inputs.*a list holds"),
        (lambda x: (x, x[:9]), "9 labels of 70 samples"),
        (lambda x: [x, np.zeros(9)], "Entry 1 of the list.*are a tuple"),
        (lambda x: [x, x[:, :1]], "Entry 1 of the list.*wrong shape"),
        (lambda x: {"y": x}, "names do not fit.*'y'.*Expected: x"),
        (lambda x: x.astype("str"), "'x' has the wrong type"),
        (lambda x: x + 1j, "'x' has the wrong type"),
        (lambda x: tf.ragged.constant([[1.0], [2.0, 3.0]]), "different lengths"),
        (lambda x: [[1.0, 2.0, 3.0], [4.0]], "different lengths"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, text, samples, single):
    with pytest.raises(InvalidArgumentError, match=text):
        list(inputs_of(make(samples[0]), single))


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("int32", 0.5, "fractions"),
        ("int32", np.nan, "fractions"),
        ("uint8", 300, "values from 300.* to 300"),
        ("uint8", -1, "whole numbers from 0 to 255"),
        ("int64", "one", "wrong type"),
        ("string", 1, "Expected: text"),
    ],
)
def test_numbers_that_an_input_cannot_hold_are_refused(dtype, value, text):
    port = keras.Input((2,), dtype=dtype, name="tokens")
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        by_name(np.full((3, 2), value), [port])
    assert "'tokens'" in str(caught.value)


def test_whole_numbers_of_another_type_are_converted():
    port = keras.Input((2,), dtype="int32", name="tokens")
    for dtype in ("float64", "int64", "uint8", "bool"):
        found = by_name(np.ones((3, 2), dtype), [port])["tokens"]
        assert (found.dtype, found.sum()) == (np.int32, 6)


def test_pairs_are_those_of_fit(samples):
    x, _, y = samples
    for data in ([(x, y), (x, y)], tf.data.Dataset.from_tensors((x, y)).repeat(2)):
        for _ in range(2):
            assert [len(labels) for _, labels in pairs_of(data)] == [COUNT] * 2
    assert pairs_of((x, y)) == (x, y)
    for data in (x, {"x": x}, (x, None)):
        with pytest.raises(InvalidArgumentError, match="has no labels, or hides them"):
            pairs_of(data)
    with pytest.raises(InvalidArgumentError, match="has no labels"):
        list(pairs_of([x, y]))


# What each function makes of data, as numbers that are equal for equal data.


def _calibrated(model, data):
    return tfcompress.calibrate(model, data)


def _reconstructed(model, data):
    return tfcompress.reconstruct(model, data, 0.5)


def _factorized(model, data):
    return tfcompress.factorize(model, rank=1, data=data)


@pytest.mark.parametrize("function", [_calibrated, _reconstructed, _factorized])
def test_functions_read_all_of_every_form(function, samples):
    a, b, y = samples
    keras.utils.set_random_seed(0)
    model = two_inputs()
    expected = function(model, [a, b]).get_weights()
    found = forms((a, b), y)
    for form in ("pair", "list of pairs", "dataset of pairs", "sequence of pairs"):
        for value, right in zip(function(model, found[form]).get_weights(), expected):
            np.testing.assert_allclose(value, right, atol=2e-5, err_msg=form)


def test_taylor_reads_every_form_with_labels(samples):
    x, _, y = samples
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), L.Dense(16), L.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = forms(x, y)
    kept = [
        tfcompress.shrink(model, 0.5, criterion="taylor", data=data, round_to=1)
        for data in (
            found["list of pairs"],
            found["list of tensors"],
            found["dataset of pairs"],
            found["sequence of pairs"],
            (batch for batch in found["list of triples"]),
        )
    ]
    for small in kept[1:]:
        for value, right in zip(small.get_weights(), kept[0].get_weights()):
            np.testing.assert_array_equal(value, right)
    with pytest.raises(InvalidArgumentError, match="has no labels"):
        tfcompress.shrink(model, 0.5, criterion="taylor", data=x, round_to=1)
    with pytest.raises(InvalidArgumentError, match="wrong shape"):
        tfcompress.shrink(model, 0.5, criterion="taylor", data=(x[:, :2], y))


@pytest.mark.export
def test_artifacts_are_judged_on_every_form(samples, tmp_path):
    a, b, y = samples
    keras.utils.set_random_seed(0)
    model = two_inputs()
    artifact = tfcompress.export(
        model, tmp_path / "m.tflite", calibration_data=(r for r in cut((a, b)))
    )
    assert artifact.integer_coverage == 1.0
    exact = tfcompress.export(model, tmp_path / "exact.tflite")
    found = forms((a, b), y)
    for form in ("pair", "list of pairs", "dataset of pairs", "sequence of pairs"):
        result = tfcompress.verify(exact, model, found[form])
        assert (result.samples, result.passed) == (COUNT, True)
        report = tfcompress.trust(model, exact, found[form], y, saliency_samples=0)
        assert (report.samples, report.agreement) == (COUNT, 1.0)
    measured = tfcompress.benchmark(exact, found["dataset of pairs"], runs=1)
    assert measured.batch_size == 1
