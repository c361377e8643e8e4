"""Instances, configs and names all lead to an instance."""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.registry import Registry

colours = Registry("colour")


@colours.register("paint")
class Paint:
    def __init__(self, shade=3):
        self.shade = shade

    def get_config(self):
        return {"shade": self.shade}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@colours.register("dye")
class Dye(Paint):
    pass


def test_names_are_sorted():
    assert colours.names() == ["dye", "paint"]


def test_a_name_gives_the_default():
    assert (type(colours.get("paint")), colours.get("paint").shade) == (Paint, 3)


def test_an_instance_is_passed_through():
    paint = Paint(5)
    assert colours.get(paint) is paint


def test_a_config_gives_an_equal_instance():
    config = keras.saving.serialize_keras_object(Dye(7))
    assert config["registered_name"] == "tfcompress>Dye"
    found = colours.get(config)
    assert (type(found), found.shade) == (Dye, 7)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        InvalidArgumentError,
        match=r"Unknown colour\. Received: 'red'\. Expected: one of 'dye', 'paint'",
    ):
        colours.get("red")


def test_a_class_instead_of_an_instance_is_pointed_out():
    with pytest.raises(
        InvalidArgumentError, match=r"Expected: an instance, `Paint\(\)"
    ):
        colours.get(Paint)


class Shape:
    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


shapes = Registry("shape", Shape)


@shapes.register("round")
class Round(Shape):
    pass


@pytest.mark.parametrize(
    "identifier",
    [3, None, 0.5, [1], Paint(), len, keras.saving.serialize_keras_object(Paint())],
    ids=["int", "none", "float", "list", "another kind", "function", "another config"],
)
def test_what_is_no_such_thing_is_refused_at_once(identifier):
    with pytest.raises(InvalidArgumentError, match=r"Unknown shape.*'round'.*of Shape"):
        shapes.get(identifier)
    assert type(shapes.get("round")) is Round


@pytest.mark.parametrize(
    "config", [{}, {"class_name": "Nothing", "config": {}}, {"a": 1}], ids=str
)
def test_a_broken_config_is_an_error_of_ours(config):
    with pytest.raises(InvalidArgumentError, match="shape"):
        shapes.get(config)


@pytest.mark.parametrize(
    "call",
    [
        lambda thing: tfcompress.PruneWeights(0.5, criterion=thing),
        lambda thing: tfcompress.PruneWeights(0.5, pattern=thing),
        lambda thing: tfcompress.PruneWeights(thing),
        lambda thing: tfcompress.PenalizeWeights(1e-3, pattern=thing),
        lambda thing: tfcompress.PruneChannels(0.5, criterion=thing),
        lambda thing: tfcompress.PruneChannels(thing),
        lambda thing: tfcompress.QuantizationScheme(thing),
        lambda thing: tfcompress.quantize_aware(model(), thing),
        lambda thing: tfcompress.calibrate(model(), np.ones((9, 4)), observer=thing),
        lambda thing: tfcompress.reconstruct(
            model(), np.ones((9, 4)), 0.5, None, thing
        ),
        lambda thing: tfcompress.shrink(model(), 0.5, criterion=thing),
        lambda thing: tfcompress.export(model(), "m.tflite", format=thing),
        lambda thing: tfcompress.Distiller(model(), model(), thing),
    ],
)
@pytest.mark.parametrize("thing", [[3], {"a": 1}, Paint(), Paint, len, "nothing"])
def test_every_argument_refuses_what_it_does_not_know(call, thing):
    with pytest.raises(tfcompress.CompressionError):
        call(thing)


@pytest.mark.parametrize("name", ["Movement", "Snip", "Grasp", "BatchNormScale"])
def test_criteria_that_need_a_fit_do_not_score_channels(name):
    criterion = getattr(tfcompress, name)()
    with pytest.raises(InvalidArgumentError, match=rf"by their weights.*{name}"):
        tfcompress.PruneChannels(0.5, criterion=criterion)
    with pytest.raises(InvalidArgumentError, match="PruneWeights"):
        tfcompress.shrink(model(), 0.5, criterion=criterion)


@pytest.mark.parametrize("name", ["Taylor", "BatchNormScale"])
def test_a_criterion_that_ranks_channels_by_name_alone_says_its_name(name):
    criterion = getattr(tfcompress, name)()
    with pytest.raises(
        InvalidArgumentError, match=rf"pass its name, '{name.lower()[:5]}"
    ):
        tfcompress.shrink(model(), 0.5, criterion=criterion)


def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])


def test_a_name_has_one_class():
    numbers = Registry("number")

    def made(name):
        kind = type(name, (), {"get_config": lambda self: {}})
        kind.__module__, kind.__qualname__ = __name__, name
        return kind

    numbers.register("one", "uno")(made("First"))
    again = made("First")
    numbers.register("one", "uno")(again)  # as when a cell of a notebook runs again
    assert numbers.class_of("uno") is again
    for name in ("one", "uno"):
        with pytest.raises(
            InvalidArgumentError, match=rf"of this name.*'{name}'.*Firs"
        ):
            numbers.register(name)(made("Second"))
    assert numbers.names() == ["one"]


def test_a_kind_has_its_own_article():
    for kind, one in (("colour", "a colour"), ("export format", "an export format")):
        with pytest.raises(InvalidArgumentError, match=f"an instance of {one}"):
            Registry(kind).get("nothing")
