"""Children that begin where the imports end: forked before TensorFlow starts.

Importing takes longer than a small fit does. A process that has imported all and run
nothing can be forked as often as one likes.
"""

import os
import pickle
import traceback


class Fork:
    """A child process that calls a function.

    Args:
        function: what to call. The parent must not have run anything in TensorFlow.
        *arguments: its arguments.
    """

    def __init__(self, function, *arguments):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            code = 1
            try:
                answer = pickle.dumps(function(*arguments))
                with os.fdopen(writer, "wb") as pipe:
                    pipe.write(answer)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)  # nothing of the parent's is to be cleaned up twice
        os.close(writer)
        self._pipe = os.fdopen(reader, "rb")

    def join(self):
        """Returns how the child ended (minus a signal's number) and its answer."""
        answer = self._pipe.read()
        self._pipe.close()
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code, pickle.loads(answer) if code == 0 else None


def in_fork(function, *arguments):
    """Returns what a child's call returns; it must not die."""
    code, answer = Fork(function, *arguments).join()
    if code != 0:
        raise RuntimeError(f"The child that ran {function.__name__} ended with {code}.")
    return answer
