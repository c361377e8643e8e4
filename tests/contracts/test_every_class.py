"""Every registered class keeps its contract."""

import inspect
import os
import sys

import jsonschema
import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import (
    ConstantSparsity,
    PolynomialSparsity,
    Recipe,
    calibrate,
    finalize,
)
from tfcompress.compression.stages import (
    STAGES,
    Cluster,
    Distil,
    Factorize,
    Fit,
    Prune,
    Quantize,
    QuantizeFile,
    Shrink,
)
from tfcompress.core.errors import ArtifactError
from tfcompress.distillation import losses as L
from tfcompress.distillation.losses import LOSSES
from tfcompress.exporters.artifact import EXPORTERS
from tfcompress.layers import TRAINING_ONLY, rows, rule_of
from tfcompress.pruning.criteria import CRITERIA
from tfcompress.pruning.patterns import PATTERNS
from tfcompress.quantization.calibration.observers import (
    OBSERVERS,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
)
from tfcompress.quantization.calibration.roundings import ROUNDINGS
from tfcompress.quantization.quantizers import QUANTIZERS, UniformQuantizer
from tfcompress.schedules import (
    SCHEDULES,
    AlternatingSparsity,
    CosineSparsity,
    MagnitudeThreshold,
    OneCycleSparsity,
)
from tfcompress.testing import (
    check_criterion,
    check_exporter,
    check_layer_rule,
    check_loss,
    check_observer,
    check_pattern,
    check_quantizer,
    check_schedule,
)

EXAMPLES = {
    "constant": [
        ConstantSparsity(0.5),
        ConstantSparsity(0.9, begin_step=17, end_step=150, frequency=13),
        ConstantSparsity(0.0, begin_step=0.5),
    ],
    "polynomial": [
        PolynomialSparsity(0.0, 0.8),
        PolynomialSparsity(0.2, 0.95, 10, 190, power=1, frequency=7),
        PolynomialSparsity(0.5, 0.5, 0.1, 0.9, power=5.5),
    ],
}
EXAMPLES["cosine"] = [CosineSparsity(0.1, 0.8), CosineSparsity(0.0, 0.9, 10, 50)]
EXAMPLES["alternating"] = [
    AlternatingSparsity(0.8, phases=2),
    AlternatingSparsity(0.9, 3, begin_step=17, end_step=150),
]
EXAMPLES["one_cycle"] = [OneCycleSparsity(0.1, 0.8, end_step=1.0)]
# It is never due, and no contract is for it: tests/flow/test_other_callbacks.py is.
EXAMPLES["keep"] = []
EXAMPLES["threshold"] = [MagnitudeThreshold(0.1), MagnitudeThreshold(0.0, 5, 90)]
PATTERN_ROUNDING = {"unstructured": 0.0}


def test_every_schedule_has_an_example_here():
    assert sorted(EXAMPLES) == SCHEDULES.names()


@pytest.mark.parametrize(
    "schedule",
    [schedule for examples in EXAMPLES.values() for schedule in examples],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedule(schedule):
    assert check_schedule(schedule) is None


@pytest.mark.parametrize("name", CRITERIA.names())
def test_criterion(name):
    assert check_criterion(CRITERIA.get(name)) is None


@pytest.mark.parametrize("name", PATTERNS.names())
def test_pattern(name):
    # A pattern that rounds may miss the sparsity by a unit or two of this size.
    assert check_pattern(PATTERNS.get(name), PATTERN_ROUNDING.get(name, 0.1)) is None


@pytest.mark.parametrize("name", QUANTIZERS.names())
def test_quantizer(name):
    assert check_quantizer(QUANTIZERS.get(name)) is None


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_uniform_quantizer_at_other_widths(bits, granularity):
    assert check_quantizer(UniformQuantizer(bits, granularity)) is None


LAYERS = [
    (layers.Dense(5), (7,)),
    (layers.Dense(5), (3, 7)),
    (layers.Conv1D(4, 3, strides=2, padding="same"), (9, 3)),
    (layers.Conv2D(6, 3, dilation_rate=2), (9, 9, 4)),
    (layers.Conv2D(6, 3, groups=2), (9, 9, 4)),
    (layers.Conv3D(2, 3), (5, 5, 5, 2)),
    (layers.DepthwiseConv1D(3), (9, 4)),
    (layers.DepthwiseConv2D(3, depth_multiplier=2), (9, 9, 4)),
    (layers.SeparableConv1D(5, 3), (9, 4)),
    (layers.SeparableConv2D(5, 3), (9, 9, 4)),
    (layers.Conv1DTranspose(3, 2), (4, 2)),
    (layers.Conv2DTranspose(3, 2, strides=2), (4, 4, 2)),
    (layers.Conv3DTranspose(2, 2), (3, 3, 3, 2)),
    (layers.EinsumDense("ab,bc->ac", 4), (3,)),
    (layers.LSTM(3), (4, 2)),
    (layers.GRU(3), (4, 2)),
    (layers.SimpleRNN(3), (4, 2)),
    (layers.BatchNormalization(), (4, 4, 3)),
    (layers.Activation("tanh"), (4,)),
    (layers.ReLU(6.0), (4,)),
    (layers.Softmax(), (4,)),
    (layers.LeakyReLU(), (4,)),
    (layers.ELU(), (4,)),
    (layers.PReLU(), (4,)),
    (layers.Rescaling(1 / 255, -0.5), (4,)),
    (layers.GlobalAveragePooling1D(), (4, 3)),
    (layers.GlobalAveragePooling2D(), (4, 4, 3)),
    (layers.MaxPooling1D(), (4, 3)),
    (layers.MaxPooling2D(), (4, 4, 3)),
    (layers.GlobalMaxPooling1D(), (4, 3)),
    (layers.GlobalMaxPooling2D(), (4, 4, 3)),
    (layers.ZeroPadding1D(), (4, 3)),
    (layers.ZeroPadding2D(), (4, 4, 3)),
    (layers.Cropping1D(), (4, 3)),
    (layers.Cropping2D(), (4, 4, 3)),
    (layers.Flatten(), (4, 3)),
    (layers.Reshape((2, 6)), (4, 3)),
    (layers.Permute((2, 1)), (4, 3)),
    (layers.RepeatVector(2), (3,)),
    (layers.UpSampling1D(2), (4, 3)),
    (layers.UpSampling2D(2), (4, 4, 3)),
    (layers.Dropout(0.5), (4,)),
    (layers.SpatialDropout1D(0.5), (4, 3)),
    (layers.SpatialDropout2D(0.5), (4, 4, 3)),
    (layers.GaussianDropout(0.5), (4,)),
    (layers.GaussianNoise(0.5), (4,)),
    (layers.AlphaDropout(0.5), (4,)),
    (layers.ActivityRegularization(0.1), (4,)),
    (layers.Identity(), (4,)),
    (layers.AveragePooling1D(2), (4, 3)),
    (layers.AveragePooling2D(2, padding="same"), (5, 5, 3)),
]


@pytest.mark.parametrize(
    ("layer", "shape"), LAYERS, ids=lambda value: getattr(value, "name", str(value))
)
def test_layer_rule(layer, shape):
    fresh = type(layer).from_config(layer.get_config())
    assert rule_of(fresh) is not None
    assert check_layer_rule(rule_of(fresh), fresh, shape) is None


class Scaled(layers.Dense):
    """A subclass, with nothing of its own registered."""


def test_a_subclass_inherits_the_rule():
    assert rule_of(Scaled(2)) is rule_of(keras.layers.Dense(2))


# What reads several tensors, whole numbers or texts, or holds a layer, where
# `check_layer_rule` gives one tensor of real numbers; test_layer_table.py and
# test_macs.py have these.
OTHER_INPUTS = {
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
    *("Attention", "AdditiveAttention", "MultiHeadAttention", "GroupedQueryAttention"),
    *("Embedding", "CategoryEncoding", "Hashing", "HashedCrossing", "IntegerLookup"),
    *("StringLookup", "TextVectorization", "InputLayer"),
    *("RNN", "Bidirectional", "TimeDistributed"),
}
MORE_LAYERS = {
    "LayerNormalization": (layers.LayerNormalization(), (4, 3)),
    "RMSNormalization": (layers.RMSNormalization(), (4, 3)),
    "UnitNormalization": (layers.UnitNormalization(), (3,)),
    "GroupNormalization": (layers.GroupNormalization(2), (4, 4)),
    "Normalization": (layers.Normalization(mean=1.0, variance=2.0), (3,)),
    "Discretization": (layers.Discretization([0.0, 1.0]), (3,)),
    "Masking": (layers.Masking(), (4, 3)),
    "Resizing": (layers.Resizing(3, 5, interpolation="nearest"), (4, 4, 3)),
    "CenterCrop": (layers.CenterCrop(2, 2), (4, 4, 3)),
    "ConvLSTM1D": (layers.ConvLSTM1D(2, 2), (3, 4, 2)),
    "ConvLSTM2D": (layers.ConvLSTM2D(2, 2), (2, 4, 4, 2)),
    "ConvLSTM3D": (layers.ConvLSTM3D(2, 2), (2, 3, 3, 3, 1)),
    "SpatialDropout3D": (layers.SpatialDropout3D(0.5), (3, 3, 3, 2)),
    "MaxPooling3D": (layers.MaxPooling3D(2), (4, 4, 4, 2)),
    "AveragePooling3D": (layers.AveragePooling3D(2), (4, 4, 4, 2)),
    "GlobalMaxPooling3D": (layers.GlobalMaxPooling3D(), (4, 4, 4, 2)),
    "GlobalAveragePooling3D": (layers.GlobalAveragePooling3D(), (4, 4, 4, 2)),
    "ZeroPadding3D": (layers.ZeroPadding3D(), (3, 3, 3, 2)),
    "Cropping3D": (layers.Cropping3D(), (4, 4, 4, 2)),
    "UpSampling3D": (layers.UpSampling3D(), (2, 2, 2, 2)),
}


def described_types():
    """Returns the layers of Keras that the table says something of."""
    kinds = (row.layer_type for row in rows() if row.flow is not None)
    return {
        kind.__name__
        for kind in kinds
        if isinstance(kind, type) and kind.__module__.startswith("keras.")
    }


def test_every_row_of_the_table_has_an_example_here():
    shown = {type(layer).__name__ for layer, _ in LAYERS} | set(MORE_LAYERS)
    random = {kind.__name__ for kind in TRAINING_ONLY}
    assert described_types() - shown - random == OTHER_INPUTS
    assert not (shown | random) & OTHER_INPUTS


@pytest.mark.parametrize("name", MORE_LAYERS)
def test_layer_rule_of_more(name):
    layer, shape = MORE_LAYERS[name]
    assert rule_of(layer) is not None
    assert check_layer_rule(rule_of(layer), layer, shape) is None


# It reads boxes, and no picture.
OF_PICTURES = [k for k in TRAINING_ONLY if k is not layers.MaxNumBoundingBoxes]


@pytest.mark.parametrize("kind", OF_PICTURES, ids=lambda kind: kind.__name__)
def test_what_is_for_training_only_changes_nothing_afterwards(kind):
    options = {
        "ActivityRegularization": {"l2": 0.1},
        "RandomBrightness": {"factor": 0.5, "value_range": (0, 1)},
        "RandomPosterization": {"factor": 4},
        "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
        "RandomZoom": {"height_factor": 0.2},
    }
    arguments = {"rate": 0.5, "factor": 0.5, "stddev": 0.5, "height": 4, "width": 4}
    known = inspect.signature(kind).parameters
    given = options.get(
        kind.__name__, {k: arguments[k] for k in known if k in arguments}
    )
    rank = {"SpatialDropout1D": 2, "SpatialDropout3D": 4}.get(kind.__name__, 3)
    x = np.random.default_rng(0).random((2, *(4,) * (rank - 1), 3)).astype("float32")
    y = kind(**given)(x, training=False)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(y), x)


RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(2, 8, 5)).astype("float32")
STEPS = RNG.normal(size=(2, 8, 3, 5)).astype("float32")
MAPS = RNG.normal(size=(8, 4, 4, 6)).astype("float32")
FEATURES = RNG.normal(size=(8, 3)).astype("float32")

# The loss, what teacher and student say (None: scores of classes), and the labels.
LOSS_EXAMPLES = {
    "soft_labels": [(L.SoftLabels(),), (L.SoftLabels(2.0), *STEPS)],
    "hard_labels": [(L.HardLabels(),)],
    "decoupled": [
        (L.DecoupledKnowledge(),),
        (L.DecoupledKnowledge(2.0), None, None, np.arange(8) % 5),
    ],
    "dist": [(L.Dist(),), (L.Dist(2.0, 0.5, 4.0),)],
    # Masks are drawn anew in each call: so few that two calls say the same.
    "masked_generation": [
        (L.MaskedGeneration("a", "b", masked=1e-6, seed=0), MAPS, MAPS[..., :3])
    ],
    "logits_mse": [(L.LogitsMSE(),), (L.LogitsMSE(center=True),)],
    "multi_label": [(L.MultiLabel(2.0),)],
    "bounded_regression": [(L.BoundedRegression(0.1), *SCORES[..., :3], FEATURES)],
    "attention_transfer": [(L.AttentionTransfer("a", "b"), MAPS[:, :2, :2], MAPS)],
    "similarity": [(L.SimilarityPreserving("a", "b"), MAPS, FEATURES)],
    "relational_distance": [(L.RelationalDistance("a", "b"), MAPS, FEATURES)],
    "relational_angle": [(L.RelationalAngle("a", "b"), MAPS, FEATURES)],
    "hint": [(L.Hint("a", "b"), MAPS, MAPS[..., :3])],
    "cosine": [(L.CosineDistance("a", "b"), FEATURES, FEATURES[::-1])],
    "contrastive": [(L.Contrastive("a", "b", 4), MAPS, FEATURES)],
    "deep_supervision": [
        (L.DeepSupervision("b"), None, MAPS),
        (L.DeepSupervision("b", 0.5), None, MAPS, np.arange(8) % 5),
    ],
    "for_output": [
        (L.ForOutput("b", L.LogitsMSE()), *({"a": FEATURES, "b": s} for s in SCORES))
    ],
}
OBSERVER_EXAMPLES = {
    "min_max": [MinMaxObserver()],
    "percentile": [PercentileObserver(), PercentileObserver(90)],
    "mse": [MSEObserver()],
}
STAGE_EXAMPLES = {
    "cluster": [Cluster(8, "linear")],
    "distil": [Distil(2.0, 0.3)],
    "factorize": [Factorize(energy=0.9, filters="dense")],
    "fit": [Fit(3, 0.5)],
    "prune": [Prune(0.8, pattern="n_of_m", scope="layer")],
    "quantize": [
        Quantize("w4a8", keep="logits"),
        Quantize("w4a8", rounding="brecq", max_bytes=1000),
    ],
    "quantize_file": [QuantizeFile("w8a16", 100)],
    "shrink": [Shrink(macs=0.5, criterion="random", max_layer_sparsity=0.6)],
}
FILES = {
    "coreml": "model.mlpackage",
    "ethos_u": "model_ethos_u",
    "executorch": "model.pte",
    "micro": "model_micro",
    "onnx": "model.onnx",
    "openvino": "model_openvino",
    "qnn": "model_qnn",
    "saved_model": "1",
    "tflite": "model.tflite",
    "web": "model_web",
}
MARKS = {"web": pytest.mark.browser, "qnn": pytest.mark.npu}
MARKS["executorch"] = pytest.mark.torch


@pytest.mark.parametrize(
    ("registry", "examples"),
    [
        (LOSSES, LOSS_EXAMPLES),
        (OBSERVERS, OBSERVER_EXAMPLES),
        (STAGES, STAGE_EXAMPLES),
        (EXPORTERS, FILES),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_every_class_has_an_example_here(registry, examples):
    assert sorted(examples) == registry.names()


@pytest.mark.parametrize(
    "example",
    [example for examples in LOSS_EXAMPLES.values() for example in examples],
    ids=lambda example: type(example[0]).__name__,
)
def test_loss(example):
    assert check_loss(*example) is None


@pytest.mark.parametrize(
    "observer",
    [observer for examples in OBSERVER_EXAMPLES.values() for observer in examples],
    ids=lambda observer: type(observer).__name__,
)
def test_observer_keeps_its_contract(observer):
    assert check_observer(observer) is None


@pytest.mark.parametrize(
    "stage",
    [stage for examples in STAGE_EXAMPLES.values() for stage in examples],
    ids=lambda stage: stage.name,
)
def test_stage(stage):
    """What it says of itself is what recipes are checked by, and brings it back."""
    jsonschema.validate(stage.get_config(), stage.schema())
    recipe = Recipe((Fit(1), stage) if stage.of_file else (stage, Fit(1)))
    assert Recipe.from_text(recipe.to_yaml()) == recipe
    assert Recipe.from_text(recipe.to_json()) == recipe
    assert str(stage).startswith(stage.name)
    assert all(argument in str(stage) for argument in stage.get_config())


@pytest.mark.export
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=MARKS[n]) if n in MARKS else n for n in FILES],
)
def test_exporter(name, tmp_path):
    exporter = EXPORTERS.get(name)
    if "TFCOMPRESS_EXECUTORCH_PYTHON" not in os.environ or name != "executorch":
        pytest.importorskip(exporter.runtime_module.split(".")[0] or "keras")
    if name == "web":
        exporter = exporter.with_options({"litertjs": os.environ["LITERTJS"]})
    if name == "coreml" and sys.platform != "darwin":
        # All that is before the run, which Apple's systems alone have.
        with pytest.raises(ArtifactError, match="macOS"):
            check_exporter(exporter, tmp_path / FILES[name])
        return
    if name == "ethos_u":
        pytest.importorskip("ethosu")
    if name not in ("micro", "ethos_u", "qnn"):
        assert check_exporter(exporter, tmp_path / FILES[name]) is None
        return
    # Microcontrollers and NPUs have integers only, and their files steps.
    model = keras.Sequential(
        [keras.Input((4,), name="x"), layers.Dense(3, name="scores")]
    )
    integers = finalize(calibrate(model, RNG.normal(size=(64, 4)).astype("float32")))
    assert check_exporter(exporter, tmp_path / FILES[name], integers, 0.05) is None


@pytest.mark.parametrize("name", OBSERVERS.names())
def test_observer(name):
    values = np.random.default_rng(0).normal(size=4096).astype("float32")
    counts, edges = np.histogram(values, 256)
    observer = OBSERVERS.get(name)
    low, high = observer.range_of(counts, edges, 8)
    assert edges[0] <= low < 0 < high <= edges[-1]
    assert high - low > 0.5 * (edges[-1] - edges[0])
    again = type(observer).from_config(observer.get_config())
    assert again.range_of(counts, edges, 8) == (low, high)


@pytest.mark.parametrize("name", ROUNDINGS.names())
def test_rounding(name):
    rounding = ROUNDINGS.get(name)
    if hasattr(rounding, "steps"):
        rounding = type(rounding)(steps=2)
    again = type(rounding).from_config(rounding.get_config())
    assert repr(again) == repr(rounding)
    x = RNG.normal(size=(32, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="scores")])
    wrapped = calibrate(model, x, "w4a8", rounding=again).get_layer("scores")
    own = wrapped.layer.kernel.numpy() / wrapped.states[0]["step"].numpy()
    off = 0.5 if name == "nearest" else 1e-4
    assert np.abs(own - np.round(own)).max() <= off
