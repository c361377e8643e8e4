"""Several fits that are open at once and train a few steps each, in turns.

Timing one fit after the other would compare the machine's moods. Here every fit has
a thread of its own and a callback that holds it until it is its turn, so that all
variants see the same machine and stay compiled. Knows no Keras: it serves Keras 3
and tf_keras.
"""

import threading
import time


class Fit:
    """One `fit` that trains `steps` steps whenever `advance()` is called.

    Args:
        run: called as `run(callback)` in a thread; calls `fit` with one long epoch.
        callback_class: `Callback` of the Keras that `run` uses.
        steps: steps of a turn.
    """

    def __init__(self, run, callback_class, steps):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._failure = None
        self._times = None
        fit = self

        class Turn(callback_class):
            def on_train_batch_begin(self, batch, logs=None):
                if batch % steps == 0:
                    fit._go.acquire()
                    self.start = _clocks()

            def on_train_batch_end(self, batch, logs=None):
                if (batch + 1) % steps == 0:
                    fit._times = tuple(b - a for a, b in zip(self.start, _clocks()))
                    fit._done.release()

        def work():
            try:
                run(Turn())
            except BaseException as error:
                self._failure = error
                self._done.release()

        threading.Thread(target=work, daemon=True).start()

    def advance(self):
        """Trains for one turn; returns the seconds it took as `(cpu, wall)`."""
        self._go.release()
        self._done.acquire()
        if self._failure is not None:
            raise self._failure
        return self._times


def open_fit(model, callbacks, options, callback_class, attach=lambda data: data):
    """Returns the open fit of a compiled model on random images."""
    from _models import images

    steps = options["steps"] * options["rounds"]
    data = attach(images(options["batch"]))

    def run(turn):
        model.fit(
            data,
            epochs=1,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks, turn],
        )

    return Fit(run, callback_class, options["chunk"])


def _clocks():
    return time.process_time(), time.perf_counter()
