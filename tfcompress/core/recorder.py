"""Shows what flows into a layer while a model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.core.types import Structure


class _Enough(BaseException):
    """Ends a forward pass; no error, and so none that Keras would decorate."""


class InputRecorder:
    """Shows the inputs of one layer while a model runs.

    Args:
        layer: the layer.
        show: called with the inputs of each call.
        calls: after so many calls the model's forward pass is cut short; `None`: it
            runs to its end.
    """

    def __init__(
        self,
        layer: keras.Layer,
        show: Callable[[Any], None],
        calls: int | None = None,
    ):
        self.layer, self.show, self.calls = layer, show, calls
        self.seen = 0

    def __enter__(self) -> InputRecorder:
        own = self.layer.call

        def call(inputs: Structure, *args: Any, **kwargs: Any) -> Structure:
            del self.layer.call  # for those who run the layer on what they are shown
            try:
                self.show(inputs)
            finally:
                self.layer.call = call
            self.seen += 1
            if self.seen == self.calls:
                raise _Enough
            return own(inputs, *args, **kwargs)

        self.layer.call = call
        return self

    def __exit__(self, *exception: Any) -> None:
        del self.layer.call

    def run(self, function: Callable[[], Any]) -> None:
        """Calls what runs the layer, as far as needed."""
        self.seen = 0
        with contextlib.suppress(_Enough):
            function()
