"""FreezeQuantization: hold ranges and batch statistics still at the end of a fit."""

from __future__ import annotations

import keras

from tfcompress.core.arguments import integer
from tfcompress.core.callback import FitCallback
from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.core.select import walk
from tfcompress.core.training_rate import trained_rate
from tfcompress.quantization.fake_quantize import FakeQuantize

# Of the rate at which training ended. What falls by a schedule begins a little higher.
_FAR_ABOVE = 3.0


class FreezeQuantization(FitCallback):
    """Fixes the ranges of activations, and batch normalization, from an epoch on.

    When to use: in the last epochs of quantization-aware training, so that the
    weights settle against the very numbers that will be deployed.

    Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient
    inference: A whitepaper", 2018, section 3.2.2. Frozen ranges no longer follow the
    data. Frozen BatchNormalization layers use their moving statistics, as they do in
    inference, and keep their scale and offset (`layer.trainable = False` while the
    fit runs; each layer's own setting comes back afterwards).

    Args:
        ranges_at_epoch: first epoch (from 0) with fixed ranges; `None` = never.
        batch_norm_at_epoch: first epoch with fixed batch normalization; `None` =
            never.

    Raises:
        InvalidArgumentError: at the start of fit, if the model has nothing to freeze.

    Example:

    >>> callback = FreezeQuantization(ranges_at_epoch=3, batch_norm_at_epoch=2)
    >>> callback.ranges_at_epoch, callback.batch_norm_at_epoch
    (3, 2)
    """

    def __init__(
        self,
        ranges_at_epoch: int | None = None,
        batch_norm_at_epoch: int | None = None,
    ):
        super().__init__()
        for name, epoch in (
            ("ranges_at_epoch", ranges_at_epoch),
            ("batch_norm_at_epoch", batch_norm_at_epoch),
        ):
            if epoch is not None:
                problem = f"`{name}` must be an epoch."
                integer(epoch, problem, low=0, expected="an int >= 0, or None")
        self.ranges_at_epoch = ranges_at_epoch
        self.batch_norm_at_epoch = batch_norm_at_epoch
        self._held: dict[int, tuple[keras.Layer, str, bool]] = {}

    def start(self, epoch: int) -> None:
        self._quantizers = self._find(FakeQuantize, self.ranges_at_epoch)
        self._norms = self._find(
            keras.layers.BatchNormalization, self.batch_norm_at_epoch
        )
        self._held = {}
        self._warn_of_rate()
        if not self.model.optimizer.built:
            # Its first step would build it on what is trainable by then.
            self.model.optimizer.build(self.model.trainable_variables)

    def _warn_of_rate(self) -> None:
        """Warns of a rate that undoes what the model has learned."""
        optimizer = self.model.optimizer
        if int(optimizer.iterations) > 0:
            return  # a fit that goes on
        rate, trained = float(optimizer.learning_rate), trained_rate(self.model)
        # A schedule that ended at zero does not say which steps are large ones.
        if trained and rate > _FAR_ABOVE * trained:
            warn(
                f"FreezeQuantization: the learning rate is {rate:.1e}, and the "
                f"training of the model ended at {trained:.1e}. In a short fit such "
                "steps lose more than quantizers win; a tenth of the rate that "
                "training began with, or less, is usual."
            )

    def stop(self) -> None:
        for layer, name, own in self._held.values():
            del layer.get_config
            if name == "trainable":
                layer.trainable = own
        self._held = {}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        changed = []
        if self.ranges_at_epoch is not None and epoch >= self.ranges_at_epoch:
            changed += [self._hold(q, "frozen", True) for q in self._quantizers]
        if self.batch_norm_at_epoch is not None and epoch >= self.batch_norm_at_epoch:
            changed += [self._hold(norm, "trainable", False) for norm in self._norms]
        if any(changed):
            self.retrace()

    def _hold(self, layer: keras.Layer, name: str, value: bool) -> bool:
        """Sets an attribute while the fit runs; returns whether that changes it.

        What is saved meanwhile has the layer's own setting: the optimizer of a model
        that is loaded has to find as many variables as it had.
        """
        if id(layer) in self._held:
            return False
        own, config = getattr(layer, name), layer.get_config
        self._held[id(layer)] = layer, name, own
        layer.get_config = lambda: {**config(), name: own}
        setattr(layer, name, value)
        return own != value

    def _find(self, kind: type, epoch: int | None) -> list:
        if epoch is None:
            return []
        found = [layer for _, layer in walk(self.model) if isinstance(layer, kind)]
        if not found:
            raise InvalidArgumentError(
                f"Model '{self.model.name}' has no {kind.__name__} layer to freeze.",
                expected="a model from quantize_aware"
                if kind is FakeQuantize
                else "a model with BatchNormalization",
                fix="leave that argument of FreezeQuantization out",
            )
        return found
