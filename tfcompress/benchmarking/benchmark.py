"""How fast is an artifact, in the runtime it was made for?"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.child.process import python
from tfcompress.core.arguments import integer, one_of
from tfcompress.core.arrays import renamed
from tfcompress.core.data import columns_of
from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import Artifact, exporter_for
from tfcompress.exporters.export import load
from tfcompress.exporters.runner import Runner

_WARM_UP = 5
_MEMORY_WORKER = Path(__file__).with_name("_memory_worker.py")


@dataclass(frozen=True)
class Benchmark:
    """Latency of one call, in milliseconds.

    Args:
        name: what the runner is called, such as its file name.
        first: the first call after loading.
        median: median of the timed calls after warm-up.
        p10: 10th percentile of the timed calls.
        p90: 90th percentile of the timed calls.
        runs: number of timed calls.
        batch_size: samples in a call.
        threads: CPU threads asked for; None where the runtime decides itself.
        peak_memory: bytes that loading and running took at most, beside the runtime's
            own; None where it was not measured.

    Example:

    >>> print(Benchmark("student.tflite", 0.9, 0.5, 0.4, 0.7, 50, 1, 1))
    student.tflite: 0.500 ms (p10 0.400, p90 0.700, first 0.900), batch 1, 1 thread
    """

    name: str
    first: float
    median: float
    p10: float
    p90: float
    runs: int
    batch_size: int
    threads: int | None
    peak_memory: int | None = None

    def __str__(self) -> str:
        threads = f"{self.threads} threads" if self.threads else "all threads"
        threads = "1 thread" if self.threads == 1 else threads
        text = (
            f"{self.name}: {self.median:.3f} ms (p10 {self.p10:.3f}, p90 "
            f"{self.p90:.3f}, first {self.first:.3f}), batch {self.batch_size}, "
            f"{threads}"
        )
        if self.peak_memory is not None:
            text += f", {self.peak_memory / 1e6:.1f} MB"
        return text


def benchmark(
    artifact: Artifact | Runner | str | os.PathLike | Sequence[Any],
    inputs: Any,
    threads: int = 1,
    runs: int = 50,
    memory: bool = False,
    signature: str | None = None,
) -> Any:
    """Measures the latency of one artifact, or of several side by side.

    Use a list to compare: its artifacts take turns, call by call, so that a busy
    machine slows all of them down equally and the ratios stay reliable.

    Args:
        artifact: an artifact, its path or a `Runner`; or a list of these.
        inputs: real samples, as for `verify`; only as many as one call takes are used.
        threads: CPU threads of a "tflite" artifact. A SavedModel or Keras runner
            always uses TensorFlow's own threads.
        runs: number of timed calls of each artifact, at least 1.
        memory: whether to measure memory too, in a separate process for each artifact
            (some seconds each; Linux only).
        signature: which of several signatures to measure, in all artifacts; None for
            the first.

    Returns:
        A `Benchmark`, or a list of them for a list.

    Raises:
        InvalidArgumentError: if `runs` or `threads` is below 1, inputs do not fit, or
            an artifact runs here in a simulator only.
        ArtifactError: if an artifact is damaged.

    Example:

    ```python
    small, large = tfcompress.benchmark(["student.tflite", "teacher.tflite"], images)
    print(large.median / small.median)
    ```
    """
    _check_counts(runs=runs, threads=threads)
    many = isinstance(artifact, (list, tuple))
    artifacts: Any = artifact if many else [artifact]
    if not artifacts:
        raise InvalidArgumentError(
            "Nothing to measure.", received="an empty list", expected="artifacts"
        )
    runners = [_loaded(a, threads, signature) for a in artifacts]
    _refuse_simulators(runners)
    most = max(runner.batch_size or 1 for runner in runners)
    inputs = columns_of(inputs, runners[0].inputs, at_most=most)
    calls = [_one_call(runner, inputs) for runner in runners]
    first = [_milliseconds(call) for call, _ in calls]
    peaks = [
        _peak_memory(a, inputs, threads, signature) if memory else None
        for a in artifacts
    ]
    times: list[list[float]] = [[] for _ in calls]
    for round_ in range(_WARM_UP + runs):
        for position, (call, _) in enumerate(calls):
            elapsed = _milliseconds(call)
            if round_ >= _WARM_UP:
                times[position].append(elapsed)
    results = [
        Benchmark(
            name=runners[i].name,
            first=first[i],
            median=float(np.median(times[i])),
            p10=float(np.percentile(times[i], 10)),
            p90=float(np.percentile(times[i], 90)),
            runs=runs,
            batch_size=calls[i][1],
            threads=runners[i].threads,
            peak_memory=peaks[i],
        )
        for i in range(len(calls))
    ]
    return results if many else results[0]


def adb_command(
    artifact: Artifact | str | os.PathLike,
    threads: int = 1,
    runs: int = 50,
    delegate: str | None = None,
) -> str:
    """Returns the command line that measures a .tflite file on a phone.

    Use it with LiteRT's own `benchmark_model`, pushed to `/data/local/tmp` of a phone
    that `adb` reaches; a desktop's ratios need not hold there.

    Source: https://ai.google.dev/edge/litert/models/measurement

    Args:
        artifact: a .tflite file.
        threads: CPU threads.
        runs: number of timed runs.
        delegate: None for the CPU, "gpu" or "nnapi".

    Raises:
        InvalidArgumentError: if it is no .tflite file or the delegate is unknown.

    Example:

    >>> print(adb_command("student.tflite"))  # doctest: +NORMALIZE_WHITESPACE
    adb push student.tflite /data/local/tmp/student.tflite &&
    adb shell /data/local/tmp/benchmark_model --graph=/data/local/tmp/student.tflite
    --num_threads=1 --num_runs=50 --warmup_runs=5 --report_peak_memory_footprint=true
    """
    path = Path(artifact)
    if path.suffix != ".tflite":
        raise InvalidArgumentError(
            "Phones measure .tflite files.",
            received=str(path),
            expected="a path that ends in .tflite",
        )
    one_of(delegate, "Unknown `delegate`.", (None, "gpu", "nnapi"))
    _check_counts(runs=runs, threads=threads)
    target = f"/data/local/tmp/{path.name}"
    options = [
        f"--graph={target}",
        f"--num_threads={threads}",
        f"--num_runs={runs}",
        f"--warmup_runs={_WARM_UP}",
        "--report_peak_memory_footprint=true",
        *([f"--use_{delegate}=true"] if delegate else []),
    ]
    push = shlex.join(["adb", "push", str(path), target])
    # The phone's shell splits what it is given once more.
    command = shlex.join(["/data/local/tmp/benchmark_model", *options])
    quoted = command if shlex.quote(target) == target else shlex.quote(command)
    return f"{push} && adb shell {quoted}"


def _refuse_simulators(runners: Sequence[Runner]) -> None:
    """Raises where the time would be that of a simulator."""
    for runner in runners:
        if runner.simulates:
            raise InvalidArgumentError(
                f"{runner.name} runs here in a simulator.",
                received=f"a simulator of {runner.simulates}",
                expected="an artifact that runs here as on its device",
                fix="measure it on the device; `verify` compares its numbers here",
            )


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        integer(value, f"Bad `{name}`.", low=1)


def _loaded(artifact: Any, threads: int, signature: str | None) -> Runner:
    if not isinstance(artifact, Runner):
        return load(artifact, threads, signature=signature)
    return artifact if signature is None else artifact.with_signature(signature)


def _peak_memory(
    artifact: Any, inputs: Any, threads: int, signature: str | None
) -> int | None:
    if isinstance(artifact, Runner) or not Path("/proc/self/clear_refs").exists():
        return None
    path = Path(artifact)
    runner = load(path, threads, signature=signature)
    columns = runner.prepare(renamed(inputs, runner.inputs))
    size = runner.batch_size or 1
    with scratch() as folder:
        stored = Path(folder) / "inputs.npz"
        batch = {name: column[:size] for name, column in columns.items()}
        np.savez(stored, **batch)  # type: ignore[arg-type]
        job = {
            "path": str(path.absolute()),
            "inputs": str(stored),
            "threads": threads,
            "signature": signature,
            "scratch": folder,
            "module": exporter_for(path).runtime_module,
            "search_path": [os.path.abspath(entry) for entry in sys.path if entry],
        }
        done = subprocess.run(
            [python(), str(_MEMORY_WORKER)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONWARNINGS": ""},
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ArtifactError(
            "The memory of the artifact could not be measured.",
            received=f"{path} ({reason})",
            expected="an artifact that runs in a process of its own",
        )
    return int(done.stdout.strip().splitlines()[-1])


def _one_call(runner: Runner, inputs: Any) -> tuple[Callable[[], Any], int]:
    columns = runner.prepare(renamed(inputs, runner.inputs))
    size = runner.batch_size or 1
    available = len(next(iter(columns.values())))
    if available < size:
        raise InvalidArgumentError(
            "Too few samples for one call.",
            received=f"{available} samples",
            expected=f"at least {size}, the artifact's batch size",
        )
    return runner.bind({name: c[:size] for name, c in columns.items()}), size


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    call()
    elapsed = (time.perf_counter_ns() - start) / 1e6
    # Of a stranger's file, what it took in the child process, without the way there.
    return 1e3 * getattr(call, "seconds", elapsed / 1e3)
