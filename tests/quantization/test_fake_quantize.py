"""FakeQuantize, QuantizedLayer and FreezeQuantization, number by number."""

import keras
import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

import tfcompress
from tests.quantization.conftest import BUILDERS, as_numpy
from tfcompress import FakeQuantize, QuantizedLayer, UniformQuantizer
from tfcompress.quantization.integers.as_convolution import affine_parameters

L = keras.layers


def observe(layer, *batches):
    for batch in batches:
        layer(np.array([batch], "float32"), training=True)
    return layer


def test_first_batch_sets_the_range_and_later_ones_move_it():
    layer = observe(FakeQuantize(momentum=0.9), [-1.0, 3.0])
    assert_allclose(as_numpy(layer.ranges), [[-1.0, 3.0]])
    observe(layer, [-2.0, 5.0])
    assert_allclose(as_numpy(layer.ranges), [[-1.5, 4.0]])  # the plain mean of two


def test_after_many_batches_it_is_a_moving_average():
    layer = observe(FakeQuantize(momentum=0.5), *[[0.0, 1.0]] * 4, [0.0, 3.0])
    assert layer.learned_range()[1] == pytest.approx(2.0)


def test_zero_is_on_the_grid_and_there_are_256_values():
    layer = observe(FakeQuantize(), [-0.37, 1.61])
    x = np.linspace(-1, 2, 5000, dtype="float32")[None]
    values = np.unique(as_numpy(layer(x)))
    assert len(values) == 256
    assert 0.0 in values


def test_a_range_of_negative_values_reaches_zero():
    layer = observe(FakeQuantize(), [-0.43, -0.14])
    low, high = layer.learned_range()
    assert high == 0
    assert low == pytest.approx(-0.43, abs=1e-6)
    x = np.array([[-0.43, -0.3, -0.14, 0.0]], "float32")
    assert_allclose(as_numpy(layer(x)), x, atol=layer.step() / 2)


def test_untrained_layer_uses_the_range_of_the_batch():
    x = np.array([[-1.0, 0.5, 2.0]], "float32")
    assert_allclose(as_numpy(FakeQuantize()(x)), x, atol=3 / 255)


def test_range_of_zeros_does_not_divide_by_zero():
    layer = observe(FakeQuantize(), [0.0, 0.0])
    assert_array_equal(as_numpy(layer(np.zeros((1, 3), "float32"))), np.zeros((1, 3)))


def test_frozen_range_does_not_move():
    layer = observe(FakeQuantize(), [-1.0, 3.0])
    layer.frozen = True
    before = layer.learned_range()
    observe(layer, [-9.0, 9.0])
    assert layer.learned_range() == before == pytest.approx((-1.0, 3.0), abs=0.01)


def test_zero_of_a_symmetric_range_is_not_half_way_between_two_values():
    low, high = observe(FakeQuantize(), [-1.0, 1.0]).learned_range()
    step = (high - low) / 255
    assert low / step == pytest.approx(round(low / step), abs=1e-4)
    assert (low, high) == pytest.approx((-1.0, 1.0), abs=step)


def test_range_before_training_is_an_error():
    layer = FakeQuantize(name="q")
    layer.build()
    with pytest.raises(tfcompress.InvalidArgumentError, match="'q' has no range yet"):
        layer.learned_range()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_quantizer_rounds_to_its_grid(bits, rng):
    weights = rng.normal(size=(20, 5)).astype("float32")
    rounded = as_numpy(UniformQuantizer(bits)(weights, (0,)))
    limit = 2 ** (bits - 1) - 1
    scale = np.abs(weights).max(0) / limit
    assert_allclose(rounded, np.round(weights / scale) * scale, atol=1e-6)
    assert len(np.unique(rounded[:, 0])) <= 2 * limit + 1


def test_quantizer_arguments_are_checked():
    with pytest.raises(tfcompress.InvalidArgumentError, match="2 to 8"):
        UniformQuantizer(9)
    with pytest.raises(tfcompress.InvalidArgumentError, match="'channel' or 'tensor'"):
        UniformQuantizer(8, "row")


@pytest.mark.parametrize(
    "layer",
    [
        L.Dense(4),
        L.Conv2D(4, 3),
        L.Conv1D(4, 3),
        L.DepthwiseConv2D(3, depth_multiplier=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_wrapped_layer_equals_the_layer_with_rounded_kernel(layer, rng):
    shape = {"Dense": (2, 6), "Conv1D": (2, 9, 6)}.get(type(layer).__name__)
    x = rng.normal(size=shape or (2, 9, 9, 6)).astype("float32")
    wrapped = QuantizedLayer(layer, UniformQuantizer(4))
    got = as_numpy(wrapped(x))
    kernel = layer.weights[0]
    axes = (0, 1) if isinstance(layer, L.DepthwiseConv2D) else None
    axes = axes or tuple(range(len(kernel.shape) - 1))
    scale = np.abs(as_numpy(kernel)).max(axes, keepdims=True) / 7
    kernel.assign(np.round(as_numpy(kernel) / scale) * scale)
    assert_allclose(got, as_numpy(layer(x)), atol=1e-5)


def test_gradient_passes_straight_through():
    import tensorflow as tf

    layer = QuantizedLayer(L.Dense(1, use_bias=False), "uniform")
    x = np.array([[1.0, 2.0, 3.0]], "float32")
    with tf.GradientTape() as tape:
        y = layer(x)
    gradient = tape.gradient(y, layer.layer.kernel.value)
    assert_array_equal(as_numpy(gradient)[:, 0], [1.0, 2.0, 3.0])


def test_regularizer_and_constraint_of_the_layer_stay():
    inner = L.Dense(
        4, kernel_regularizer="l2", kernel_constraint="non_neg", name="inner"
    )
    layer = QuantizedLayer(inner, "uniform")
    layer(np.ones((1, 3), "float32"))
    assert len(layer.losses) == 1
    assert inner.kernel.constraint is not None


def test_stateless_call_sees_the_given_weights():
    layer = QuantizedLayer(L.Dense(2), "uniform")
    x = np.ones((1, 3), "float32")
    layer(x)
    given = [np.full((3, 2), 0.5, "float32"), np.full(2, 7.0, "float32")]
    got, _ = layer.stateless_call(given, [], x)
    assert_allclose(as_numpy(got), [[8.5, 8.5]], atol=1e-6)


def test_affine_parameters_of_batch_normalization(rng):
    layer = L.BatchNormalization()
    layer.build((None, 5))
    layer.set_weights([rng.uniform(0.5, 2, 5) for _ in range(4)])
    x = rng.normal(size=(7, 5)).astype("float32")
    scale, offset = affine_parameters(layer, 5)
    assert_allclose(x * scale + offset, as_numpy(layer(x)), atol=1e-5)


def fit(model, digits, epochs, *callbacks):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    x, y = digits[0][:256], digits[1][:256]
    return model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=callbacks)


class Record(keras.callbacks.Callback):
    """Notes ranges and batch statistics at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.ranges, self.means = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.ranges.append(self.model.get_layer("relu_quantizer").learned_range())
        self.means.append(as_numpy(self.model.get_layer("norm").moving_mean).copy())


def test_freeze_quantization_holds_ranges_and_statistics(digits):
    model = tfcompress.quantize_aware(BUILDERS["residual"]())
    record = Record()
    freeze = tfcompress.FreezeQuantization(ranges_at_epoch=2, batch_norm_at_epoch=1)
    fit(model, digits, 4, freeze, record)
    assert record.ranges[0] != record.ranges[1] == record.ranges[2] == record.ranges[3]
    assert_array_equal(record.means[0], record.means[3])
    assert model.get_layer("norm").trainable  # comes back after the fit
    assert model.get_layer("relu_quantizer").frozen


def test_freeze_quantization_needs_something_to_freeze(digits):
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(10)])
    with pytest.raises(tfcompress.InvalidArgumentError, match="no FakeQuantize layer"):
        fit(model, digits, 1, tfcompress.FreezeQuantization(0))
    with pytest.raises(tfcompress.InvalidArgumentError, match="BatchNormalization"):
        fit(model, digits, 1, tfcompress.FreezeQuantization(batch_norm_at_epoch=0))
    with pytest.raises(tfcompress.InvalidArgumentError, match="must be an epoch"):
        tfcompress.FreezeQuantization(-1)


def test_what_is_saved_while_frozen_resumes(digits, tmp_path):
    x, y = digits[0][:64], digits[1][:64]
    freeze = tfcompress.FreezeQuantization(ranges_at_epoch=0, batch_norm_at_epoch=0)
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    layers = [L.Flatten(), L.Dense(10), L.BatchNormalization()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    scheme = tfcompress.QuantizationScheme(ranges="learned")
    model = tfcompress.quantize_aware(model, scheme)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(x, y, verbose=0, callbacks=[freeze, save])
    # Keras warns, which is an error here, if the optimizer has other variables.
    loaded = keras.models.load_model(tmp_path / "1.keras")
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) > 0
    assert all("get_config" not in vars(layer) for layer in model.layers)


def operations(layer, training, count=4):
    """Returns how many operations a quantizer has in a graph with its gradient."""
    import tensorflow as tf

    chain = [FakeQuantize.from_config(layer.get_config()) for _ in range(count)]
    for one in chain:
        one.build((None, 8))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for one in chain:
                y = one(y, training=training)
        return y, tape.gradient(y, x)

    nodes = step.get_concrete_function(tf.ones((2, 8))).graph.as_graph_def().node
    passive = ("Const", "NoOp", "Placeholder", "Identity", "OnesLike")
    return sum(node.op not in passive for node in nodes) // count


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 31),
        ({"nonnegative": True}, 22),
        ({"frozen": True}, 16),
        ({"frozen": True, "nonnegative": True}, 8),
        ({"fixed_range": (0.0, 1.0)}, 2),
    ],
)
def test_a_step_has_few_operations_for_each_quantizer(changes, most):
    assert operations(FakeQuantize(**changes), training=True) <= most


@pytest.mark.parametrize("nonnegative", [True, False])
def test_few_operations_round_as_the_formula_does(nonnegative, rng):
    # What is divided and multiplied by numbers, TensorFlow takes together if it can.
    import tensorflow as tf

    grid = FakeQuantize(nonnegative=nonnegative).grid

    @tf.function
    def formula(ranges):
        low = ops.full_like(ranges[0, 0], 0.0)
        if not nonnegative:
            low = ops.minimum(ops.min(ranges[:, 0]), low)
        high = ops.maximum(ops.max(ranges[:, 1]), 0.0)
        high = ops.maximum(high, low + 1e-5)
        step = (high - low) / 255
        zero_point = ops.round(-low / step)
        return -zero_point * step, (255 - zero_point) * step

    compiled = tf.function(grid.span)
    for high in rng.uniform(0.1, 9, 200):
        ranges = tf.constant([[0.0 if nonnegative else -high / 3, high]], tf.float32)
        assert [*map(float, compiled(ranges))] == [*map(float, formula(ranges))]
