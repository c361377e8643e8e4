"""What callbacks that project variables after each step have in common.

Keras applies `variable.constraint` inside the compiled step, right after the
optimizer's update. A projection is put there while a `fit` runs and taken away after
it, so no layer is wrapped and nothing has to be stripped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcompress.core.backend import require_tensorflow
from tfcompress.core.configured import described
from tfcompress.core.errors import InvalidArgumentError, warn
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

    @property
    def masks(self) -> list[Any] | None:
        """The projections if all are masks that count their changes; otherwise None."""
        all_are = all(hasattr(one, "changes") for one in self.projections)
        return self.projections if all_are and self.original is None else None

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


class Occasional:
    """What a training step does in some steps only.

    The function is traced once, apart from the step, which calls it by its name.
    Written into the step, its hundreds of operations would be walked past in every step
    in which it is not due, which costs more than multiplying with masks does. Called as
    TensorFlow calls functions in functions, it would be entered into the registry of
    gradients, which keeps what it is given until the process ends.

    Args:
        function: what to do. It reads variables, and no tensors of the step.
    """

    def __init__(self, function: Callable[[], None]):
        self._function = function
        self._traced: Any = None

    def run_when(self, due: Any) -> None:
        """Does it in those steps where `due` is true; called inside the step."""
        import tensorflow as tf

        if tf.executing_eagerly():
            # Step by step (`run_eagerly=True`) a function would be traced in each.
            if bool(due):
                self._function()
            return
        ops.cond(due, self._call, lambda: 0)

    def _call(self) -> Any:
        import tensorflow as tf

        # Keras does not convert its steps with AutoGraph either, which reads sources
        # anew.
        options = {"_noinline": True}
        apart = tf.function(
            self._done, autograph=False, experimental_attributes=options
        )
        if tf.distribute.has_strategy():
            return apart()  # replicas wait for each other in what they do together
        if self._traced is None:
            with tf.init_scope():
                self._traced = apart.get_concrete_function()
        (zero,) = tf.raw_ops.StatefulPartitionedCall(
            args=self._traced.captured_inputs, Tout=[tf.int32], f=self._traced.name
        )
        return zero

    def _done(self) -> Any:
        self._function()
        return 0


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
        self.left: list[Left] = []
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

    def remind(self) -> None:
        """Lets the next fit hear of what was made, once all techniques have ended."""
        if not self.callbacks and self.left:
            self.model.make_train_function = _Reminder(self.model, self.left)


class _Reminder:
    """Stands in for `model.make_train_function` once, when the next fit begins.

    A technique that is over holds nothing: the next fit without it may undo what it
    made, and the user should hear of it.
    """

    def __init__(self, model: keras.Model, left: list[Left]):
        self.model, self.left = model, left

    def __call__(self, force: bool = False) -> Any:
        if isinstance(self.model.__dict__.get("make_train_function"), _Reminder):
            del self.model.make_train_function
        held = any(isinstance(other, FitCallback) for other in _callbacks_of_the_fit())
        if not held:
            for left in self.left:
                if any(v.trainable for v in left.variables):
                    warn(
                        f"This fit has no {left.by}, and may undo {left.what} that an "
                        f"earlier one made. To keep them, add {left.keep} to "
                        "`callbacks`."
                    )
        return self.model.make_train_function(force=force)


class Left(NamedTuple):
    """What a technique leaves in the weights, which later training may undo.

    Attributes:
        by: name of the technique.
        what: "the zeros".
        keep: the callback that keeps them.
        variables: the weights.
    """

    by: str
    what: str
    keep: str
    variables: list[keras.Variable]


class Restored(NamedTuple):
    """Weights that another callback puts into the model when the fit ends.

    Attributes:
        by: type of the callback.
        epoch: the epoch they are of, counted from 1.
        values: arrays by `id` of their variable.
    """

    by: str
    epoch: int
    values: dict[int, np.ndarray]


def _callbacks_of_the_fit() -> list[keras.callbacks.Callback]:
    """Returns all callbacks of the fit that calls this; none where nobody knows."""
    found = list_of_the_fit()
    return [getattr(c, "callback", c) for c in found.callbacks] if found else []


def list_of_the_fit() -> keras.callbacks.CallbackList | None:
    """Returns what calls the callbacks of the fit that calls this; None if unknown.

    Keras tells a callback nothing of the others. They are where it is called from.
    """
    frame = sys._getframe(1)
    while frame is not None:
        for name in ("self", "callbacks"):
            found = frame.f_locals.get(name)
            if isinstance(found, keras.callbacks.CallbackList):
                return found
        frame = frame.f_back  # type: ignore[assignment]
    return None


class FitCallback(keras.callbacks.Callback):
    """Base of callbacks that change the training step of one `fit`.

    Subclasses implement `start(epoch)` and `stop()`. `start` is called before the
    first step, when the optimizer's state has been restored and the first epoch is
    known (so it is right for a run that `BackupAndRestore` resumes). `release()` is
    called instead of `stop` when the fit died and the next one begins; it takes away
    what was attached and leaves the weights alone, which may be other ones by then.
    """

    _running = False

    def __repr__(self) -> str:
        return described(self)

    def on_train_begin(self, logs: dict | None = None) -> None:
        require_tensorflow(f"use {type(self).__name__} in fit")
        require_built(self.model, f"use {type(self).__name__} in fit")
        self._running = False
        self._others = [c for c in _callbacks_of_the_fit() if c is not self]
        optimizer = getattr(self.model, "optimizer", None)
        self._first = None if optimizer is None else self.current_step()
        # What is best so far to those that keep the best model, and whether that was
        # made when this technique was done.
        self._best: dict[int, tuple[Any, bool]] = {}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if not self._running:
            self.start(epoch)
            self._running = True
            _FitWatch.add(self)
            self.retrace()
        self._note_best()

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._running:
            self._note_best()
            self._warn_of_early_files()
            watch: _FitWatch = self.model.make_train_function
            left = self.left()
            if left is not None:
                watch.left.append(left)
            self.stop()
            self._running = False
            watch.remove(self)
            self.retrace()
            watch.remind()
        elif self._first is not None and self.current_step() > self._first:
            warn(
                f"{type(self).__name__} did nothing: it begins in `on_epoch_begin`, "
                "which this loop of your own did not call."
            )

    def start(self, epoch: int) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        self.stop()

    def is_final(self) -> bool:
        """Returns whether the model is by now what it is to be in the end."""
        return True

    def left(self) -> Left | None:
        """Returns what the technique leaves that later training may undo."""
        return None

    def restored(self) -> Restored | None:
        """Returns the weights that another callback puts into the model at the end.

        They are those of an epoch that was judged, so nothing may be changed in them.
        """
        for other in self._others:
            values = getattr(other, "best_weights", None)
            if getattr(other, "restore_best_weights", False) and values is not None:
                known = {id(v): a for v, a in zip(self.model.weights, values)}
                epoch = int(getattr(other, "best_epoch", 0)) + 1
                return Restored(type(other).__name__, epoch, known)
        return None

    def _note_best(self) -> None:
        for other in self._others:
            if getattr(other, "save_best_only", False):
                best = getattr(other, "best", None)
                before = self._best.get(id(other))
                if before is None:
                    self._best[id(other)] = (best, True)  # nothing of this fit yet
                elif best != before[0]:
                    self._best[id(other)] = (best, self.is_final())

    def _warn_of_early_files(self) -> None:
        for other in self._others:
            _, final = self._best.get(id(other), (None, True))
            if not final:
                name, kind = type(self).__name__, type(other).__name__
                warn(
                    f"{kind} kept the model of an epoch before {name} was done, in "
                    f"{getattr(other, 'filepath', '?')}: it has less of what is asked "
                    f"for than the last one. Pass tfcompress.OnceFinal({kind}(...), "
                    f"{name}(...)) in its place, for the best of those that are done."
                )

    def retrace(self) -> None:
        # fit() makes its train function before any callback runs, and a function
        # that was traced before never looks at constraints or attributes again.
        self.model.make_train_function(force=True)

    def current_step(self) -> int:
        """Returns how many steps the optimizer has made."""
        return int(self.model.optimizer.iterations.numpy())

    def step_now(self) -> Any:
        """Returns the same inside the compiled step, as a tensor."""
        return ops.cast(self.model.optimizer.iterations, "int32")

    def fit_steps(self, epoch: int) -> tuple[int, int]:
        """Returns the first and last step of this fit, counted by the optimizer."""
        params = self.params or {}
        steps = params.get("steps")
        if steps is None or "epochs" not in params:
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
