"""Measures how much memory one artifact takes, in a process of its own.

Reads a JSON job from stdin: `path`, `inputs` (an .npz file), `threads`, `module` (the
runtime, whose own memory is not the artifact's). Prints bytes.
"""

import importlib
import json
import runpy
import sys
from pathlib import Path


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(field))
    return 1024 * int(line.split()[1])


def main() -> None:
    """Loads the artifact, runs it three times and prints the peak above the start."""
    job = json.loads(sys.stdin.read())
    sys.path[:0] = job["search_path"]
    import numpy as np

    import tfcompress.child
    from tfcompress.exporters.export import load

    if job["module"]:
        importlib.import_module(job["module"])
    with np.load(job["inputs"]) as stored:
        columns = dict(stored)
    # From here on the high-water mark counts.
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = _status("VmRSS")
    # This process is there for nothing else; nobody vouches for the file.
    jail = Path(tfcompress.child.__file__).with_name("_jail.py")
    runpy.run_path(str(jail))["enter"](job["scratch"])
    runner = load(job["path"], job["threads"], True, job["signature"])
    for _ in range(3):
        runner.run_batch(columns)
    print(json.dumps(max(_status("VmHWM") - before, 0)))


if __name__ == "__main__":
    main()
