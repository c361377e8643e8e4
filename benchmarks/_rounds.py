"""Several fits that are open at once and train one epoch each, in turns.

Timing one fit after the other would compare the machine's moods. Here every fit has
a thread of its own and a callback that holds it at the beginning of each epoch until
it is its turn, so that all variants see the same machine, stay compiled, and are
timed over whole epochs. Knows no Keras: serves Keras 3 and tf_keras.
"""

import threading
import time


class Fit:
    """One `fit` that trains an epoch whenever `epoch()` is called.

    Args:
        run: called as `run(callback)` in a thread; must call `fit` with as many epochs
            as `epoch()` will be called, and `callback` last among its callbacks.
        callback_class: `Callback` of the Keras that `run` uses.
    """

    def __init__(self, run, callback_class):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._failure = None
        self._times = None
        fit = self

        class Turn(callback_class):
            def on_epoch_begin(self, epoch, logs=None):
                fit._go.acquire()
                self.start = _clocks()

            def on_epoch_end(self, epoch, logs=None):
                fit._times = tuple(b - a for a, b in zip(self.start, _clocks()))
                fit._done.release()

        def work():
            try:
                run(Turn())
            except BaseException as error:
                self._failure = error
                self._done.release()

        threading.Thread(target=work, daemon=True).start()

    def epoch(self):
        """Trains one epoch; returns the seconds it took as `(cpu, wall)`."""
        self._go.release()
        self._done.acquire()
        if self._failure is not None:
            raise self._failure
        return self._times


def _clocks():
    return time.process_time(), time.perf_counter()
