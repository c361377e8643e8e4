"""A job of the child process that failed."""

from tfcompress.core.errors import ExportError

_PYTHON = "the Python interpreter of this environment in `sys.executable`"
#: What to do where the worker did not start.
SET_PYTHON = "set `sys.executable`, or call `multiprocessing.set_executable`"


class ConverterFailure(Exception):
    """A job failed in the worker; the caller turns this into its own error.

    Args:
        reason: one line that says what went wrong.
        log: everything the worker printed during the job.
        died: whether the worker process itself is gone.
        message: the whole text of the error that was raised in the worker.
        started: whether the worker has run at all.
    """

    def __init__(
        self,
        reason: str,
        log: str,
        died: bool = False,
        message: str = "",
        started: bool = True,
    ):
        super().__init__(reason)
        self.reason, self.log, self.died = reason, log, died
        self.message, self.started = message or reason, started

    def as_error(
        self, problem: str, fix: str, expected: str | None = None
    ) -> ExportError:
        """Returns an `ExportError` that carries the log as its `log` attribute."""
        if self.started:
            fix = f"{fix} (the converter's full log is this error's `log` attribute)"
        else:
            # Nothing that is converted is to blame.
            problem, expected = "No converter process could be started.", _PYTHON
            fix = SET_PYTHON
        error = ExportError(problem, received=self.reason, expected=expected, fix=fix)
        error.log = self.log
        return error
