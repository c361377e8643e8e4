"""Whatever is given for an argument: an error of the library's own, or it is taken."""

import inspect
import itertools

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import distillation, exporters, schedules
from tfcompress.compression import stages
from tfcompress.core.errors import CompressionError
from tfcompress.distillation import losses
from tfcompress.pruning import criteria, patterns
from tfcompress.quantization import calibration, quantizers

NONSENSE = {
    "a word": "nonsense",
    "negative": -1,
    "nan": float("nan"),
    "none": None,
    "list": [],
    "dict": {},
    "fraction": 3.7,
    "zero": 0,
    "huge": 10**9,
    "bytes": b"x",
    "object": object(),
}
# What classes need to be made at all.
NEEDED = {
    "ConstantSparsity": {"target_sparsity": 0.5},
    "PenalizeWeights": {"strength": 1e-3},
    "Factorize": {"macs": 0.5},
    "Shrink": {"macs": 0.5},
    "Fit": {"epochs": 1},
    "Budget": {"max_bytes": 1000},
    "DeepSupervision": {"student_layer_name": "hidden"},
}
FUNCTIONS = (
    *("quantize_aware", "calibrate", "finalize", "macs", "channel_groups", "shrink"),
    *(
        "factorize",
        "reconstruct",
        "mixed_precision",
        "choose_bits",
        "doctor",
        "export",
        "load",
    ),
    *("verify", "pack", "unpack", "storage", "distill_into_trees"),
)
ROOMS = (
    *(tfcompress, distillation, exporters, schedules, stages, losses, criteria),
    *(patterns, calibration, quantizers),
)


def _classes():
    known = {}
    for room in ROOMS:
        for name, value in vars(room).items():
            ours = inspect.isclass(value) and value.__module__.startswith("tfcompress")
            said = ours and issubclass(value, Exception)
            if ours and not said and not name.startswith("_"):
                known[value] = inspect.signature(value).parameters
    for known_class, parameters in known.items():
        needed = {n for n, p in parameters.items() if _is_needed(p)}
        if needed <= set(NEEDED.get(known_class.__name__, ())):
            yield known_class


def _is_needed(parameter):
    several = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in several


def _arguments(function):
    for name, parameter in inspect.signature(function).parameters.items():
        # Names are Keras' own business, and flags are true or false like anything.
        flag = isinstance(parameter.default, bool)
        several = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.kind not in several and name != "name" and not flag:
            yield name


def _is_clean(function, arguments):
    try:
        function(**arguments)
    except CompressionError:
        return True
    return True


@pytest.mark.parametrize("known_class", list(_classes()), ids=lambda c: c.__name__)
def test_classes(known_class):
    needed = NEEDED.get(known_class.__name__, {})
    for argument in _arguments(known_class):
        for value in NONSENSE.values():
            assert _is_clean(known_class, {**needed, argument: value})


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("bad")
    inputs = keras.Input((6,), name="x")
    hidden = layers.Dense(16, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(hidden))
    data = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    artifact = tfcompress.export(final, folder / "model.tflite")
    return folder, model, data, final, artifact


def _calls(objects):
    folder, model, data, final, artifact = objects
    numbers = itertools.count()

    def export(filepath="", **options):
        path = folder / f"{next(numbers)}.tflite" if filepath == "" else filepath
        return tfcompress.export(final, path, **options)

    of_model = {"model": model}
    with_data = {"model": model, "data": data}
    return {
        "quantize_aware": (tfcompress.quantize_aware, of_model),
        "calibrate": (tfcompress.calibrate, with_data),
        "finalize": (tfcompress.finalize, of_model),
        "macs": (tfcompress.macs, of_model),
        "channel_groups": (tfcompress.channel_groups, of_model),
        "shrink": (tfcompress.shrink, {**of_model, "macs": 0.7}),
        "factorize": (tfcompress.factorize, {**of_model, "macs": 0.7}),
        "reconstruct": (tfcompress.reconstruct, {**with_data, "sparsity": 0.5}),
        "mixed_precision": (
            tfcompress.mixed_precision,
            {**with_data, "max_bytes": 150},
        ),
        "choose_bits": (tfcompress.choose_bits, {**with_data, "max_bytes": 250}),
        "doctor": (tfcompress.doctor, {**of_model, "trial": False}),
        "export": (export, {}),
        "load": (tfcompress.load, {"filepath": artifact}),
        "verify": (
            tfcompress.verify,
            {"artifact": artifact, "reference": final, "inputs": data},
        ),
        "pack": (
            tfcompress.pack,
            {"artifact": artifact, "filepath": folder / "p.tfc", "overwrite": True},
        ),
        "unpack": (
            tfcompress.unpack,
            {"filepath": folder / "p.tfc", "directory": folder / "unpacked"},
        ),
        "storage": (tfcompress.storage, {"subject": model}),
        "distill_into_trees": (
            tfcompress.distill_into_trees,
            {"teacher": model, "x": data},
        ),
    }


@pytest.mark.export
@pytest.mark.filterwarnings("ignore::tfcompress.CompressionWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, objects, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # "nonsense" is a path as good as any
    function, needed = _calls(objects)[name]
    before = [np.array(w) for w in objects[1].get_weights()]
    for argument in _arguments(getattr(tfcompress, name)):
        if name == "export" and argument == "model":
            continue
        for value in NONSENSE.values():
            assert _is_clean(function, {**needed, argument: value})
    for old, new in zip(before, objects[1].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
