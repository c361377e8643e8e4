"""A script in a process of its own that answers JSON lines: TFMOT needs Keras 2."""

import json
import subprocess
import sys
from pathlib import Path


class Child:
    """A process that runs a script of this folder.

    Args:
        script: its file name.
    """

    def __init__(self, script):
        self.script = script
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **request):
        """Returns the answer to a request."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"The process of {self.script} died on {request}; run it by hand with "
                "this request on its standard input to see why."
            )
        return json.loads(answer)

    def close(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
