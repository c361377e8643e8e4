"""Each check fails on a class that breaks its contract, and says how."""

import dataclasses
import itertools
import shutil
import tempfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress import (
    Criterion,
    LayerRule,
    Pattern,
    Quantizer,
    Schedule,
    UniformQuantizer,
)
from tfcompress.distillation.losses import DistillationLoss, LogitsMSE
from tfcompress.exporters import Artifact, KerasRunner
from tfcompress.exporters.artifact import EXPORTERS
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.tracing import trace
from tfcompress.layers import Kernel
from tfcompress.quantization.calibration.observers import Observer
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

registered = keras.saving.register_keras_serializable(package="contract_tests")


@registered
class Linear(Schedule):
    """Right: the base of the wrong ones."""

    def value(self, progress):
        return 0.5 * progress


@registered
class TooLarge(Linear):
    def value(self, progress):
        return 2.0 * progress


@registered
class Forgetful(Linear):
    def __init__(self, height=0.5, **kwargs):
        super().__init__(**kwargs)
        self._height = height

    def value(self, progress):
        return self._height * progress


class Unregistered(Linear):
    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)


@registered
class Moody(Linear):
    """Not a pure function of the step."""

    calls = itertools.count()

    def __call__(self, step):
        if isinstance(step, int):
            return (next(self.calls) % 7) / 10
        return super().__call__(step)


@registered
class Shrinking(Linear):
    def value(self, progress):
        return 0.5 - 0.5 * progress


@registered
class NeverDue(Linear):
    def is_due(self, step):
        return False if isinstance(step, int) else super().is_due(step)


@registered
class EagerOnly(Linear):
    def __call__(self, step):
        if isinstance(step, int):
            return super().__call__(step)
        return super().__call__(step) * 0.5


@registered
class InPlace(Linear):
    def resolve(self, span):
        self.begin_step, self.end_step = span.first, span.last
        return self


def test_a_right_schedule_passes():
    assert check_schedule(Linear()) is None


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (TooLarge(), r"TooLarge\(\d+\) must be a float in \[0, 1\), got 1"),
        (
            Forgetful(0.7),
            r"Forgetful rebuilt from its config gives 0\.185\d* at progress 0\.37",
        ),
        (Unregistered((3,)), "Unregistered cannot be rebuilt from its config"),
        (Moody(), "Moody must be a pure function of the step"),
        (Shrinking(), r"its last value 0\.0 is not its largest"),
        (NeverDue(), "NeverDue is never due in a fit of 200 steps"),
        (EagerOnly(), r"EagerOnly compiled gives 0\.\d+ at step 7, eager"),
        (InPlace(), r"InPlace.resolve\(\) must return a new schedule"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_schedule_is_found(schedule, message):
    with pytest.raises(AssertionError, match=message):
        check_schedule(schedule)


@registered
class Ones(Criterion):
    def score(self, weights):
        return ops.ones_like(weights) * ops.abs(weights)


@registered
class OnePerChannel(Criterion):
    def score(self, weights):
        return ops.sum(ops.abs(weights), axis=-1)


@registered
class Divides(Criterion):
    def score(self, weights):
        return weights / ops.abs(weights)


@registered
class InNumPy(Criterion):
    def score(self, weights):
        return ops.convert_to_tensor(np.abs(weights.numpy()))


@registered
class Integers(Criterion):
    def score(self, weights):
        return ops.cast(ops.abs(weights) * 100, "int32")


def test_a_right_criterion_passes():
    assert check_criterion(Ones()) is None


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (OnePerChannel(), r"of weights of shape \(24, 16\).*got float32 \(24,\)"),
        (Divides(), "has NaN where weights are zero"),
        (InNumPy(), r"InNumPy.score\(\) cannot be compiled"),
        (Integers(), r"must be floats of that shape, got int32 \(24, 16\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_criterion_is_found(criterion, message):
    with pytest.raises(AssertionError, match=message):
        check_criterion(criterion)


class ByRow(Pattern):
    """Right: whole rows of the last axis; the base of the wrong ones."""

    def reduce(self, scores, kernel):
        return ops.mean(scores, axis=-1, keepdims=True)

    def expand(self, mask, shape, kernel):
        return ops.broadcast_to(mask, shape)


@registered
class Rows(ByRow):
    pass


@registered
class Narrow(ByRow):
    def expand(self, mask, shape, kernel):
        return mask


@registered
class Numbers(ByRow):
    def expand(self, mask, shape, kernel):
        return ops.cast(super().expand(mask, shape, kernel), "float32")


@registered
class KeepsFirst(ByRow):
    def expand(self, mask, shape, kernel):
        first = ops.arange(shape[-1]) == 0
        return ops.logical_or(super().expand(mask, shape, kernel), first)


@registered
class OddOnes(ByRow):
    """Drops a row's odd weights only, so that the sparsity is missed."""

    def expand(self, mask, shape, kernel):
        full = super().expand(mask, shape, kernel)
        if ops.is_tensor(mask) and mask.shape[0] in (3, 24, 5, 576):
            some = ops.logical_and(ops.any(full), ops.logical_not(ops.all(full)))
            even = ops.arange(shape[-1]) % 2 == 0
            full = ops.where(some, ops.logical_or(full, even), full)
        return full


def test_a_right_pattern_passes():
    assert check_pattern(Rows(), tolerance=0.05) is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (Narrow(), r"bool mask of shape \(24, 16\), got bool \(24, 1\)"),
        (Numbers(), r"bool mask of shape \(24, 16\), got float32"),
        (KeepsFirst(), r"all dropped leaves 24 of 384 weights kept"),
        (OddOnes(), r"pruned to 0.5 with OddOnes has sparsity 0\.2"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_pattern_is_found(pattern, message):
    with pytest.raises(AssertionError, match=message):
        check_pattern(pattern, tolerance=0.05)


class Doubling(layers.Layer):
    """y = 2 x + kernel."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1],), name="table")

    def call(self, x):
        return 2.0 * x + self.table


class Squaring(Doubling):
    def call(self, x):
        return x * x + self.table


TABLE = (Kernel("table"),)


@pytest.mark.parametrize(
    ("rule", "layer", "message"),
    [
        (LayerRule(Doubling), layers.Dense(2), "rule is for Doubling.*is a Dense"),
        (
            LayerRule(Doubling, "compute", (Kernel("kernel"),)),
            Doubling(),
            "Doubling has no variable 'kernel'",
        ),
        (
            LayerRule(Doubling, "compute", (Kernel("table", (-2,)),)),
            Doubling(),
            r"output_axes \(-2,\) of Doubling.table lie outside its 1 dimensions",
        ),
        (LayerRule(Doubling, "compute"), Doubling(), "flow 'compute' and no kernels"),
        (LayerRule(Doubling, "select", TABLE), Doubling(), "makes numbers that its"),
        (LayerRule(Doubling, "average", TABLE), Doubling(), "leaves its input's range"),
        (LayerRule(Squaring, "compute", TABLE), Squaring(), "is not linear in its"),
        (
            LayerRule(Doubling, "compute", TABLE, macs=lambda layer, i, o: 1.5),
            Doubling(),
            "macs of Doubling must be an int >= 0, got 1.5",
        ),
    ],
)
def test_a_wrong_rule_is_found(rule, layer, message):
    with pytest.raises(AssertionError, match=message):
        check_layer_rule(rule, layer, (6,))


def test_a_right_rule_passes():
    rule = LayerRule(Doubling, "compute", TABLE, macs=lambda layer, i, o: 6)
    assert check_layer_rule(rule, Doubling(), (6,)) is None


@registered
class Halves(UniformQuantizer):
    """Right: a uniform quantizer of two bits."""

    def __init__(self, num_bits=2, granularity="channel"):
        super().__init__(num_bits, granularity)


@registered
class NoGradient(Halves):
    def __call__(self, weights, axes):
        return ops.stop_gradient(super().__call__(weights, axes))


@registered
class Offset(Halves):
    def __call__(self, weights, axes):
        return super().__call__(weights, axes) + 0.01


@registered
class TooMany(Halves):
    def __call__(self, weights, axes):
        return UniformQuantizer(8)(weights, axes)


@registered
class Shrinks(Halves):
    def __call__(self, weights, axes):
        return 0.9 * super().__call__(weights, axes)


@registered
class DividesByZero(Quantizer):
    def __call__(self, weights, axes):
        return weights / ops.sign(weights) * ops.sign(weights)


@registered
class Flat(Quantizer):
    def __call__(self, weights, axes):
        return ops.reshape(weights, (-1,))


def test_a_right_quantizer_passes():
    assert check_quantizer(Halves()) is None


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (NoGradient(), "lets no useful gradient through: 100% of the weights"),
        (Offset(), "Offset moves 128 zeros: pruned weights would come back"),
        (TooMany(), r"num_bits=2 gives a channel \d+ different values, more than 4"),
        (Shrinks(), r"Shrinks rounds what is rounded already, by up to 0\.\d+"),
        (DividesByZero(), "DividesByZero gives NaN or infinity"),
        (Flat(), r"of shape \(24, 16\) must have their shape.*got float32 \(384,\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_quantizer_is_found(quantizer, message):
    with pytest.raises(AssertionError, match=message):
        check_quantizer(quantizer)


@registered
class Squares(DistillationLoss):
    """Right: the base of the wrong ones."""

    def values(self, teacher, student):
        return ops.mean(ops.square(teacher - student), axis=-1)


@registered
class SquaresOfEach(Squares):
    def compute_loss(self, teacher, student, sample_weight=None, **kwargs):
        return ops.square(teacher - student)


@registered
class Logarithm(Squares):
    def values(self, teacher, student):
        return ops.mean(ops.log(teacher - student), axis=-1)


@registered
class Scaled(Squares):
    def __init__(self, factor=1.0):
        super().__init__()
        self._factor = factor

    def values(self, teacher, student):
        return self._factor * super().values(teacher, student)


@registered
class EagerSquares(Squares):
    def values(self, teacher, student):
        return ops.convert_to_tensor(np.mean((teacher - student).numpy() ** 2, -1))


@registered
class Traced(Squares):
    """Counts in Python, which a compiled step does once."""

    def values(self, teacher, student):
        known = isinstance(getattr(student, "numpy", None), type(self.values))
        return (1.0 if known else 2.0) * super().values(teacher, student)


@registered
class AllSamples(Squares):
    def compute_loss(self, teacher, student, sample_weight=None, **kwargs):
        return super().compute_loss(teacher, student)


@registered
class Rounded(Squares):
    def values(self, teacher, student):
        return super().values(teacher, ops.round(student))


@registered
class Backwards(Squares):
    def values(self, teacher, student):
        right = super().values(teacher, student)
        return 2 * ops.stop_gradient(right) - right


@registered
class Root(Squares):
    def values(self, teacher, student):
        return ops.sqrt(ops.sum(ops.square(teacher - student), axis=-1))


@pytest.mark.parametrize(
    "loss",
    [Squares(), LogitsMSE(), keras.distillation.LogitsDistillation()],
    ids=lambda value: type(value).__name__,
)
def test_a_right_loss_passes(loss):
    assert check_loss(loss) is None


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (SquaresOfEach(), r"must be a float32 scalar, got float32 \(8, 5\)"),
        (Logarithm(), "Logarithm of a batch is nan"),
        (Scaled(3.0), r"Scaled rebuilt from its config gives \d\.\d+ instead of"),
        (EagerSquares(), "EagerSquares cannot be compiled: "),
        (Traced(), r"Traced compiled gives \d\.\d+, eager \d\.\d+"),
        (AllSamples(), "AllSamples of samples without weight counts: it is "),
        (Rounded(), "Rounded has a gradient of size 0 by the student's outputs"),
        (Backwards(), r"Backwards goes from \d\.\d+ to \d\.\d+ in a step down"),
        (Root(), "Root or its gradient is not finite where student and teacher"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_loss_is_found(loss, message):
    with pytest.raises(AssertionError, match=message):
        check_loss(loss)


@registered
class Seen(Observer):
    """Right: the base of the wrong ones."""

    def range_of(self, counts, edges, num_bits):
        return float(edges[0]), float(edges[-1])


@registered
class Arrays(Seen):
    def range_of(self, counts, edges, num_bits):
        return edges[:1], edges[-1:]


@registered
class Wider(Seen):
    def range_of(self, counts, edges, num_bits):
        return float(edges[0]) - 1.0, float(edges[-1])


@registered
class Narrower(Seen):
    def range_of(self, counts, edges, num_bits):
        return float(edges[0]) / num_bits**2, float(edges[-1]) / num_bits**2


@registered
class InOrder(Seen):
    def range_of(self, counts, edges, num_bits):
        counts.sort()
        return super().range_of(counts, edges, num_bits)


@registered
class Drifting(Seen):
    calls = itertools.count(2)

    def range_of(self, counts, edges, num_bits):
        return float(edges[0]), float(edges[-1]) * (1 - 1 / next(self.calls) / 10)


@registered
class Shares(Seen):
    def __init__(self, share=1.0):
        self._share = share

    def range_of(self, counts, edges, num_bits):
        return float(edges[0]) * self._share, float(edges[-1]) * self._share


def test_a_right_observer_passes():
    assert check_observer(Seen()) is None


@pytest.mark.parametrize(
    ("observer", "message"),
    [
        (Arrays(), r"Arrays.range_of\(\) must be two floats, got \(array"),
        (Wider(), r"must lie within what was seen and zero, .*got \[-4\.\d+, "),
        (Narrower(), r"of values around zero with 4 bits holds \d+% of the values"),
        (InOrder(), "must leave counts and edges alone"),
        (Drifting(), "must depend on its arguments only"),
        (Shares(0.9), r"Shares.range_of\(\) rebuilt from its config gives"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_observer_is_found(observer, message):
    with pytest.raises(AssertionError, match=message):
        check_observer(observer)


@dataclasses.dataclass(frozen=True)
class Whole(Exporter):
    """Right: Keras' own files as a format; the base of the wrong ones."""

    one_file = True

    def check(self, filepath, calibration_data):
        return filepath

    def source(self, model, input_signature, calibration_data):
        return Source(model, trace(model, None), None, input_signature)

    def write(self, source, stage):
        source.model.save(stage.with_suffix(".keras"))
        stage.with_suffix(".keras").rename(stage)
        return self.inspect(stage), {"samples": 0, "bound": None}

    def matches(self, filepath):
        return filepath.suffix == ".whole"

    def inspect(self, filepath):
        runner = KerasRunner(self.model(filepath))
        return Artifact(
            path=filepath,
            format="whole",
            inputs=runner.inputs,
            outputs=runner.outputs,
            files=(filepath,),
        )

    def runner(self, filepath, threads):
        check_files(filepath)
        return KerasRunner(self.model(filepath))

    def model(self, filepath):
        with tempfile.TemporaryDirectory() as folder:
            # Keras reads files of one suffix only.
            copy = shutil.copy(filepath, f"{folder}/model.keras")
            return keras.saving.load_model(copy)


class Direct(Whole):
    """Writes where it is asked to, without a stage or a manifest."""

    def export(self, model, filepath, input_signature, calibration_data):
        return self.write(Source(model, None, None, None), filepath)[0]


class Overwrites(Whole):
    overwrites = True


class Untidy(Whole):
    def write(self, source, stage):
        (stage.parent / "notes.txt").write_text("half-made")
        return super().write(source, stage)


class Trains(Whole):
    def write(self, source, stage):
        written = super().write(source, stage)
        source.model.set_weights([0.5 * w for w in source.model.get_weights()])
        return written


class Elsewhere(Whole):
    def matches(self, filepath):
        return filepath.suffix == ".other"


class Loose(Whole):
    def inspect(self, filepath):
        found = super().inspect(filepath)
        share = float(filepath.suffix == ".whole" and filepath.stem == "model")
        return dataclasses.replace(found, integer_coverage=share)


class Renamed(Whole):
    def runner(self, filepath, threads):
        runner = super().runner(filepath, threads)
        runner.inputs = tuple(
            dataclasses.replace(info, name="x") for info in runner.inputs
        )
        return runner


class Halved(Whole):
    def write(self, source, stage):
        model = keras.models.clone_model(source.model)
        model.set_weights([0.5 * w for w in source.model.get_weights()])
        return super().write(dataclasses.replace(source, model=model), stage)


class AnyOption(Whole):
    def with_options(self, options):
        return self


@pytest.fixture
def as_format():
    """Registers classes as the format "whole", and takes them back."""
    before = dict(EXPORTERS._classes)
    yield lambda kind: EXPORTERS.register("whole")(kind)
    EXPORTERS._classes.clear()
    EXPORTERS._classes.update(before)


def test_a_right_exporter_passes(as_format, tmp_path):
    assert check_exporter(as_format(Whole)(), tmp_path / "model.whole") is None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Direct, "leaves no manifest; write with `publish`, as `Exporter` does"),
        (Overwrites, r"Overwrites.export\(\) writes over what is there"),
        (Untidy, r"Untidy.export\(\) leaves notes.txt behind"),
        (Trains, "changes the model's weights"),
        (Elsewhere, "does not know what it wrote, or another format does"),
        (Loose, r"describe the artifact differently: integer_coverage 1\.0 and 0"),
        (Renamed, r"Renamed calls the inputs \['x'\], the model \['image'\]"),
        (Halved, r"output 'scores' of Halved is off by \d\.\d+, more than 0.001"),
        (AnyOption, r"AnyOption.with_options\(\) takes options that it has not"),
    ],
)
def test_a_wrong_exporter_is_found(as_format, tmp_path, kind, message):
    with pytest.raises(AssertionError, match=message):
        check_exporter(as_format(kind)(), tmp_path / "model.whole")


@registered
class Nameless(Whole):
    pass


def test_an_exporter_needs_a_name(tmp_path):
    with pytest.raises(AssertionError, match="Nameless is not registered"):
        check_exporter(Nameless(), tmp_path / "model.whole")
