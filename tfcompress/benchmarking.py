"""How fast is an artifact, in the runtime it was made for?"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.export import load
from tfcompress.exporters.runners import Runner

_WARM_UP = 5


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

    def __str__(self) -> str:
        threads = f"{self.threads} threads" if self.threads else "all threads"
        threads = "1 thread" if self.threads == 1 else threads
        return (
            f"{self.name}: {self.median:.3f} ms (p10 {self.p10:.3f}, p90 "
            f"{self.p90:.3f}, first {self.first:.3f}), batch {self.batch_size}, "
            f"{threads}"
        )


def benchmark(
    artifact: Artifact | Runner | str | os.PathLike | Sequence[Any],
    inputs: Any,
    threads: int = 1,
    runs: int = 50,
) -> Any:
    """Measures the latency of one artifact, or of several side by side.

    Use a list to compare: its artifacts take turns, call by call, so that a busy
    machine slows all of them alike and the ratios hold.

    Args:
        artifact: an artifact, its path or a `Runner`; or a list of these.
        inputs: real samples; as many as one call takes are used.
        threads: CPU threads of a "tflite" artifact. A SavedModel or Keras runner
            always uses TensorFlow's own threads.
        runs: number of timed calls of each artifact, at least 1.

    Returns:
        A `Benchmark`, or a list of them for a list.

    Raises:
        InvalidArgumentError: if `runs` or `threads` is below 1, or inputs do not fit.
        ArtifactError: if an artifact is damaged.

    Example:

    ```python
    small, large = tfcompress.benchmark(["student.tflite", "teacher.tflite"], images)
    print(large.median / small.median)
    ```
    """
    for name, value in (("runs", runs), ("threads", threads)):
        if not isinstance(value, int) or value < 1:
            raise InvalidArgumentError(
                f"Bad `{name}`.", received=repr(value), expected="an integer >= 1"
            )
    many = isinstance(artifact, (list, tuple))
    artifacts: Sequence[Any] = artifact if many else [artifact]  # type: ignore
    if not artifacts:
        raise InvalidArgumentError(
            "Nothing to measure.", received="an empty list", expected="artifacts"
        )
    runners = [a if isinstance(a, Runner) else load(a, threads) for a in artifacts]
    calls = [_one_call(runner, inputs) for runner in runners]
    first = [_milliseconds(call) for call, _ in calls]
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
        )
        for i in range(len(calls))
    ]
    return results if many else results[0]


def _one_call(runner: Runner, inputs: Any) -> tuple[Callable[[], Any], int]:
    columns = runner.prepare(inputs)
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
    return (time.perf_counter_ns() - start) / 1e6
