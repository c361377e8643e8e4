"""What is rewritten in .tflite files: fewer operators and bytes, the same integers."""

import collections

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.exporters.tflite import exporter
from tfcompress.exporters.tflite.assembling import put_together
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile, read_schema
from tfcompress.exporters.tflite.rewriting import (
    calls,
    new_constant,
    new_operator,
    operators,
    take_apart,
)
from tfcompress.exporters.tflite.splits import use_splits

L = keras.layers
STEPS, UNITS = 6, 8
# Of slices that take one place of the second axis, which is gone then.
STEP_MASKS = {"beginMask": 1, "endMask": 1, "shrinkAxisMask": 2}


def recurrent(layer):
    sequence = keras.Input((STEPS, 5), name="sequence")
    return keras.Model(sequence, L.Dense(3, name="logits")(layer(sequence)))


def encoder():
    tokens = keras.Input((7, 8), name="tokens")
    x = L.Add()([tokens, L.MultiHeadAttention(2, 4, name="attention")(tokens, tokens)])
    x = L.LayerNormalization(name="norm")(x)
    x = L.Dense(8, name="back")(L.Dense(16, activation="relu", name="wide")(x))
    x = L.LayerNormalization(name="last_norm")(x)
    return keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def steps():
    """Steps of a sequence, by slices that are the user's own."""
    sequence = keras.Input((STEPS, 5), name="sequence")
    x = L.Dense(4, name="first")(sequence)
    x = L.Concatenate()([x[:, step] for step in range(STEPS)])
    return keras.Model(sequence, L.Dense(3, name="logits")(x))


MODELS = {
    "steps": steps,
    "LSTM": lambda: recurrent(L.LSTM(UNITS)),
    "GRU": lambda: recurrent(L.GRU(UNITS)),
    "GRU of Keras 1": lambda: recurrent(L.GRU(UNITS, reset_after=False)),
    "Bidirectional": lambda: recurrent(L.Bidirectional(L.SimpleRNN(UNITS))),
    "encoder": encoder,
}


@pytest.fixture(scope="module")
def finalized():
    made = {}

    def get(name):
        if name not in made:
            keras.utils.set_random_seed(0)
            model = MODELS[name]()
            data = np.random.default_rng(0).normal(size=(32, *model.input_shape[1:]))
            calibrated = tfcompress.calibrate(model, data.astype("float32"))
            made[name] = tfcompress.finalize(calibrated)
        return made[name]

    return get


def census(artifact):
    counts = collections.Counter()
    for entry in artifact.operators:
        counts[entry.name] += entry.count
    return counts


@pytest.mark.export
@pytest.mark.filterwarnings("ignore:The converter left")
@pytest.mark.parametrize("name", ["GRU", "encoder"])
def test_the_same_numbers_in_batches_of_any_size(
    name, finalized, tmp_path, monkeypatch
):
    old, made, results = before_and_after(finalized(name), None, tmp_path, monkeypatch)
    np.testing.assert_array_equal(*results)
    assert made.integer_coverage == old.integer_coverage


def before_and_after(model, batch_size, folder, monkeypatch):
    """Returns the files as converted and as rewritten, and what either computes."""
    made = tfcompress.export(model, folder / "new.tflite", batch_size=batch_size)
    as_converted(monkeypatch)
    old = tfcompress.export(model, folder / "old.tflite", batch_size=batch_size)
    x = np.random.default_rng(1).normal(size=(30, *model.input_shape[1:]))
    x = x.astype("float32")
    return old, made, [tfcompress.load(one)(x) for one in (old, made)]


def as_converted(monkeypatch):
    """Lets files be as the converter made them, but for their numbers."""
    monkeypatch.setattr(exporter, "use_average_pools", lambda model: None)
    monkeypatch.setattr(exporter, "use_splits", lambda model: None)
    monkeypatch.setattr(exporter, "use_fewer_reshapes", lambda model: None)


@pytest.mark.export
@pytest.mark.parametrize(
    ("name", "batch_size"), [*((n, 1) for n in MODELS), ("LSTM", 3), ("encoder", 3)]
)
def test_the_same_integers_before_and_after(
    name, batch_size, finalized, tmp_path, monkeypatch
):
    model = finalized(name)
    old, made, results = before_and_after(model, batch_size, tmp_path, monkeypatch)
    np.testing.assert_array_equal(*results)
    assert len(np.unique(results[0])) > 20
    assert made.integer_coverage == old.integer_coverage == 1.0
    assert made.inputs == old.inputs
    assert made.outputs == old.outputs
    assert made.size < old.size
    assert sum(census(made).values()) < sum(census(old).values())


@pytest.mark.export
@pytest.mark.parametrize(("name", "slices"), [("LSTM", 2), ("GRU", 4)])
def test_operators_and_kernels_of_recurrent_steps(name, slices, finalized, tmp_path):
    artifact = tfcompress.export(finalized(name), tmp_path / "m.tflite")
    counts = census(artifact)
    # One operator hands out the steps, and one in each step the gates. Nobody reads the
    # forget gate of the first step of an LSTM.
    assert counts["UNPACK"] == 1
    assert counts["STRIDED_SLICE"] <= slices * STEPS + 2
    assert counts["SPLIT"] in (STEPS, STEPS - 1)
    # The first step has no state to multiply.
    assert counts["FULLY_CONNECTED"] == 1 + STEPS - 1 + 1
    file = TFLiteFile.open(artifact.path)
    kernels = [op.inputs[1] for op in file.operators if op.name == "FULLY_CONNECTED"]
    indices = {tensor.index for tensor in kernels}
    assert len(indices) == 3  # of inputs, states and the last layer
    gates = 4 if name == "LSTM" else 3
    stored = [t for graph in file.tensors for t in graph if t.constant]
    shape = (gates * UNITS, UNITS)
    assert [t.info.shape for t in stored].count(shape) == 1


@pytest.mark.export
def test_reshapes_of_an_encoder(finalized, tmp_path, monkeypatch):
    model = finalized("encoder")
    made = census(tfcompress.export(model, tmp_path / "new.tflite"))
    as_converted(monkeypatch)
    old = census(tfcompress.export(model, tmp_path / "old.tflite"))
    # Four of the heads, five of each normalization: pairs and identities are gone.
    assert made["RESHAPE"] <= 4 + 2 * 5 < old["RESHAPE"]
    assert old - made == {"RESHAPE": old["RESHAPE"] - made["RESHAPE"]}


def sliced(shape, cuts, free=None, **masks):
    """Returns a file of a tensor and slices of it: `[(begin, end), ...]`."""
    schema = read_schema()
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.operatorCodes, model.signatureDefs = 3, [], []
    model.buffers, model.subgraphs, model.metadata = [schema.BufferT()], [graph], []
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], []

    def tensor(sizes):
        made = schema.TensorT()
        made.shape, made.name = np.array(sizes, np.int32), f"t{len(graph.tensors)}"
        made.type, made.buffer = schema.TensorType.INT8, 0
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    source = tensor(shape)
    if free is not None:
        signature = [-1 if axis == free else size for axis, size in enumerate(shape)]
        graph.tensors[source].shapeSignature = np.array(signature, np.int32)
    for begin, end in cuts:
        options = schema.StridedSliceOptionsT()
        for name, value in masks.items():
            setattr(options, name, value)
        example = [
            slice(
                None if masks.get("beginMask", 0) >> axis & 1 else begin[axis],
                None if masks.get("endMask", 0) >> axis & 1 else end[axis],
            )
            for axis in range(len(begin))
        ]
        sizes = np.zeros(shape)[tuple(example)].shape
        drops = [
            axis for axis in range(8) if masks.get("shrinkAxisMask", 0) >> axis & 1
        ]
        made = tensor([size for axis, size in enumerate(sizes) if axis not in drops])
        numbers = [
            new_constant(model, graph, np.array(values, np.int32), "numbers")
            for values in (begin, end, [1] * len(begin))
        ]
        inputs = [source, *numbers]
        graph.operators.append(
            new_operator(model, "STRIDED_SLICE", 2, inputs, [made], options)
        )
        graph.outputs.append(made)
    return model


def names(model):
    return [name for name, *_ in calls(model, model.subgraphs[0])]


def test_slices_of_all_steps_are_one_operator():
    cuts = [([0, at], [1, at + 1]) for at in (2, 0, 1)]
    model = sliced((1, 3, 4), cuts, **STEP_MASKS)
    assert use_splits(model)
    assert names(model) == ["UNPACK"]
    (operator,) = model.subgraphs[0].operators
    # In the order of the steps, whatever order they were read in.
    last, first, second = model.subgraphs[0].outputs
    assert operator.outputs == [first, second, last]
    assert (operator.builtinOptions.num, operator.builtinOptions.axis) == (3, 1)


@pytest.mark.parametrize(
    ("kind", "versions"),
    [("FLOAT32", [1, 1]), ("INT8", [2, 2]), ("INT16", [4, 4]), ("INT32", [1, 3])],
)
def test_operators_are_as_new_as_their_numbers_need(kind, versions):
    unpacked = sliced((1, 2, 4), [([0, 0], [0, 1]), ([0, 1], [0, 2])], **STEP_MASKS)
    split = sliced((1, 4), [([0, 0], [1, 2]), ([0, 2], [1, 4])])
    for model, version in zip((unpacked, split), versions):
        graph = model.subgraphs[0]
        for tensor in graph.tensors:
            tensor.type = getattr(read_schema().TensorType, kind)
        assert use_splits(model)
        code = model.operatorCodes[graph.operators[0].opcodeIndex]
        assert code.version == version


def test_slices_of_equal_parts_are_one_operator():
    model = sliced((1, 4), [([0, 0], [1, 2]), ([0, -2], [1, 4])])
    assert use_splits(model)
    assert names(model) == ["SPLIT"]
    assert put_together(model)


@pytest.mark.parametrize(
    "model",
    [
        sliced((1, 4), [([0, 0], [1, 3]), ([0, 3], [1, 4])]),  # unequal parts
        sliced((1, 6), [([0, 0], [1, 2]), ([0, 2], [1, 4])]),  # the rest nobody reads
        sliced((1, 4), [([0, 0], [1, 2]), ([0, 1], [1, 3])]),  # parts that overlap
        sliced((1, 10), [([0, at], [1, at + 2]) for at in range(0, 10, 2)]),  # many
        sliced((4, 4), [([0, 0], [2, 2]), ([2, 2], [4, 4])]),  # of two axes
        sliced((1, 4), [([0, 0], [1, 4])]),  # all of it
        sliced((1, 4), [([0, 0], [1, 2]), ([0, 2], [1, 4])], free=1),
        sliced((1, 4), [([0, 0], [1, 2]), ([0, 2], [1, 4])], free=0),
    ],
)
def test_other_slices_stay(model):
    before = names(model)
    assert not use_splits(model)
    assert names(model) == before


@pytest.mark.export
def test_what_is_equal_is_stored_once(finalized, tmp_path):
    path = tfcompress.export(finalized("LSTM"), tmp_path / "m.tflite").path
    content = path.read_bytes()
    zeros = np.zeros(4 * UNITS, np.int64).tobytes()
    size = np.array([4 * UNITS], np.uint32).tobytes()
    assert content.count(size + zeros) == 1
    again = put_together(take_apart(content))
    assert len(again) == len(content)


@pytest.mark.export
def test_shared_parts_say_what_they_said(finalized, tmp_path):
    path = tfcompress.export(finalized("encoder"), tmp_path / "m.tflite").path
    content = path.read_bytes()

    def said(content):
        model = take_apart(content)
        return [
            [name, *(described(model, tensor) for tensor in tensors)]
            for name, _, tensors in operators(model)
        ]

    def described(model, tensor):
        quantization, data = tensor.quantization, model.buffers[tensor.buffer].data
        numbers = []
        if quantization is not None and quantization.scale is not None:
            numbers = [*quantization.scale, *quantization.zeroPoint]
        values = [] if data is None else bytes(bytearray(data))
        return tensor.name, tensor.type, list(tensor.shape), numbers, values

    assert said(put_together(take_apart(content))) == said(content)


@pytest.mark.export
@pytest.mark.parametrize(
    ("pool", "rate", "operator"),
    [
        (7, 7, "AVERAGE_POOL_2D"),
        ((7, 5), 2, "AVERAGE_POOL_2D"),
        (3, 3, "DEPTHWISE_CONV_2D"),  # XNNPACK is faster
        (8, 8, "DEPTHWISE_CONV_2D"),  # ties are decided otherwise
    ],
)
def test_averages_that_have_no_ties_are_pooling(
    pool, rate, operator, tmp_path, monkeypatch
):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            L.Conv2D(24, 3, padding="same", activation="relu6", name="conv"),
            L.AveragePooling2D(pool, rate, name="pool"),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 16, 16, 3)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, x[:32]))
    made = tfcompress.export(final, tmp_path / "new.tflite")
    assert census(made)[operator] == 1
    as_converted(monkeypatch)
    old = tfcompress.export(final, tmp_path / "old.tflite")
    values = tfcompress.load(made)(x)
    np.testing.assert_array_equal(values, tfcompress.load(old)(x))
    np.testing.assert_array_equal(values, final.predict(x, verbose=0))
    assert len(np.unique(values)) > 20


@pytest.mark.export
@pytest.mark.parametrize(("size", "stride"), [(8, 1), (4, 4)])
def test_strides_that_are_never_taken(size, stride, tmp_path, monkeypatch):
    """Ethos-U55 takes none above 3, and a pooling over all of an axis takes none."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            L.Conv2D(8, 3, padding="same", name="conv"),
            L.AveragePooling2D(size, name="pool"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, x))
    made = tfcompress.export(final, tmp_path / "new.tflite")
    found = [
        (operator.builtinOptions.strideH, operator.builtinOptions.strideW)
        for graph in [take_apart(made.path.read_bytes())]
        for name, operator, _ in calls(graph, graph.subgraphs[0])
        if name == "DEPTHWISE_CONV_2D"
    ]
    assert found == [(stride, stride)]
    monkeypatch.setattr(exporter, "leave_out_strides", lambda model: None)
    old = tfcompress.export(final, tmp_path / "old.tflite")
    values = tfcompress.load(made)(x)
    np.testing.assert_array_equal(values, tfcompress.load(old)(x))
    np.testing.assert_array_equal(values, final.predict(x, verbose=0))
