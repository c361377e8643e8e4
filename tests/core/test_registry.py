"""Instances, configs and names all lead to an instance."""

import keras
import pytest

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
