"""What callbacks that project variables after each step have in common.

Keras applies `variable.constraint` inside the compiled step, right after the
optimizer's update. A projection is put there while a `fit` runs and taken away after
it, so no layer is wrapped and nothing has to be stripped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import require_built

Projection = Callable[[Any], Any]


class ProjectionChain(keras.constraints.Constraint):
    """The user's own constraint and the projections of all callbacks, in order."""

    def __init__(self, original: Projection | None):
        self.original = original
        self.projections: list[Projection] = []

    def __call__(self, value: Any) -> Any:
        value = self.constrained(value)
        for projection in self.projections:
            value = projection(value)
        return value

    def constrained(self, value: Any) -> Any:
        """Returns `value` after the user's own constraint alone."""
        value = ops.convert_to_tensor(value)
        return value if self.original is None else self.original(value)

    def get_config(self) -> dict:
        # What a model saved during fit should remember is the user's constraint.
        if self.original is None:
            return {}
        return {"original": keras.saving.serialize_keras_object(self.original)}


def attach(variable: keras.Variable, projection: Projection) -> ProjectionChain:
    """Adds `projection` to what is applied to `variable` after each update."""
    chain = variable.constraint
    if not isinstance(chain, ProjectionChain):
        chain = ProjectionChain(variable.constraint)
        variable.constraint = chain
    chain.projections.append(projection)
    return chain


def detach(variable: keras.Variable, projection: Projection) -> None:
    """Undoes `attach`; the user's own constraint comes back with the last one."""
    chain = variable.constraint
    if isinstance(chain, ProjectionChain) and projection in chain.projections:
        chain.projections.remove(projection)
        if not chain.projections:
            variable.constraint = chain.original


def run_when(due: Any, action: Callable[[], None]) -> None:
    """Runs `action` inside the training step, in those steps where `due` is true.

    The action is a function of its own in the graph. Written into the step, its
    hundreds of operations would be walked past in every step in which it is not due,
    which costs more than multiplying with masks does.
    """

    import tensorflow as tf

    def act() -> Any:
        action()
        return 0

    # Keras does not convert its steps with AutoGraph either, which reads sources anew.
    options = {"_noinline": True}
    apart = tf.function(act, autograph=False, experimental_attributes=options)
    ops.cond(due, apart, lambda: 0)


class _FitWatch:
    """Stands in for `model.make_train_function` while callbacks change the step.

    A fit that dies never reaches `on_train_end`, and what it attached would stay.
    Only the beginning of another fit asks for the train function without force, so
    that is where the leftovers of a dead one are taken away. `train_on_batch` asks so
    as well: it belongs to what is running, a loop that calls the callbacks by itself.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.callbacks: list[FitCallback] = []
        self.in_a_batch = False

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self.in_a_batch = True
        try:
            return type(self.model).train_on_batch(self.model, *args, **kwargs)
        finally:
            self.in_a_batch = False

    def __call__(self, force: bool = False) -> Any:
        if not force and not self.in_a_batch:
            force = True
            for callback in list(self.callbacks):
                callback.release()
                self.remove(callback)
        return type(self.model).make_train_function(self.model, force=force)

    @classmethod
    def add(cls, callback: FitCallback) -> None:
        model = callback.model
        if not isinstance(model.make_train_function, cls):
            watch = model.make_train_function = cls(model)
            model.train_on_batch = watch.train_on_batch
        model.make_train_function.callbacks.append(callback)

    def remove(self, callback: FitCallback) -> None:
        self.callbacks.remove(callback)
        if not self.callbacks:
            del self.model.make_train_function, self.model.train_on_batch


class FitCallback(keras.callbacks.Callback):
    """Base of callbacks that change the training step of one `fit`.

    Subclasses implement `start(epoch)` and `stop()`. `start` is called before the
    first step, when the optimizer's state has been restored and the first epoch is
    known (so it is right for a run that `BackupAndRestore` resumes). `release()` is
    called instead of `stop` when the fit died and the next one begins; it takes away
    what was attached and leaves the weights alone, which may be other ones by then.
    """

    _running = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        require_built(self.model, f"use {type(self).__name__} in fit")
        self._running = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if not self._running:
            self.start(epoch)
            self._running = True
            _FitWatch.add(self)
            self.retrace()

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._running:
            self.stop()
            self._running = False
            self.model.make_train_function.remove(self)
            self.retrace()

    def start(self, epoch: int) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        self.stop()

    def retrace(self) -> None:
        # fit() makes its train function before any callback runs, and a function
        # that was traced before never looks at constraints or attributes again.
        self.model.make_train_function(force=True)

    def current_step(self) -> int:
        """Returns how many steps the optimizer has made."""
        return int(self.model.optimizer.iterations.numpy())

    def fit_steps(self, epoch: int) -> tuple[int, int]:
        """Returns the first and last step of this fit, counted by the optimizer."""
        steps = self.params.get("steps")
        if steps is None or "epochs" not in self.params:
            raise InvalidArgumentError(
                f"{type(self).__name__} cannot tell how many steps this fit has.",
                received="data of unknown length and no steps_per_epoch",
                expected="a known number of steps per epoch",
                fix="pass steps_per_epoch to fit, or a data set with a length; in a "
                "loop of your own, CallbackList(callbacks, epochs=..., steps=...)",
            )
        optimizer = self.model.optimizer
        steps //= getattr(optimizer, "gradient_accumulation_steps", None) or 1
        now = self.current_step()
        # The epochs before `epoch` belong to the plan if this optimizer made them
        # (a resumed run), and not if `initial_epoch` only shifts the count.
        done = epoch * steps
        if now < done:
            return now, now + (self.params["epochs"] - epoch) * steps - 1
        # A run resumed in mid-epoch starts that epoch again; what it did of it before
        # is less than an epoch, and no reason to shift the plan.
        first = now - done if now - done >= steps else 0
        return first, first + self.params["epochs"] * steps - 1
