"""Opening layers that are made of layers, so that their channels can be seen."""

from __future__ import annotations

import keras

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import is_graph_model
from tfcompress.core.inlining import inlined
from tfcompress.core.select import walk
from tfcompress.layers import rule_of


def opened(model: keras.Model) -> keras.Model:
    """Returns `model` with its layers made of layers opened, where nothing is lost.

    A layer whose `call` does not run on symbolic tensors stays whole, and so does one
    that turns weights into constants, as an embedding of fixed positions does.
    """
    if not is_graph_model(model):
        return model
    whole: set[int] = set()
    while True:
        try:
            functional = _opened(model, whole)
        except InvalidArgumentError:
            return model
        kept = {id(variable) for variable in functional.variables}
        losing = {
            id(layer)
            for _, layer in walk(model)
            if type(layer).__module__.split(".")[0] != "keras"
            and any(id(variable) not in kept for variable in layer.variables)
        }
        if losing <= whole:
            return functional
        whole |= losing


def _opened(model: keras.Model, whole: set[int]) -> keras.Model:
    def known(layer: keras.Layer) -> bool:
        rule = rule_of(layer)
        return id(layer) in whole or (rule is not None and rule.channels is not None)

    return inlined(model, known, "find the channels of the model")
