"""tfcompress benchmark"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress.cli.app import Json, Pixels, app, show, working
from tfcompress.cli.inputs import DATA_HELP, only_inputs, read_data


@app.command()
def benchmark(
    artifacts: Annotated[
        list[Path], typer.Argument(help="One or several; the first is the baseline.")
    ],
    inputs: Annotated[
        str | None, typer.Option(help=f"Real inputs (else random): {DATA_HELP}")
    ] = None,
    pixels: Pixels = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    runs: Annotated[int, typer.Option(help="Timed calls of each.")] = 50,
    memory: Annotated[bool, typer.Option("--memory", help="Peak memory too.")] = False,
    signature: Annotated[
        str | None, typer.Option(help="Which of several; else the first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure artifacts in turns, so that their ratios hold on a busy machine.

    Example: tfcompress benchmark float.tflite small.tflite --memory
    """
    from tfcompress.benchmarking import benchmark as measure
    from tfcompress.exporters.artifact import Artifact

    described = [Artifact.read(path) for path in artifacts]
    if signature is not None:
        described = [artifact.of(signature) for artifact in described]
    taken = max(info.shape[0] or 1 for info in described[0].inputs)
    if inputs is None:
        found = _random(described[0], taken)
    else:
        data = read_data(inputs, described, pixels, taken)
        found = only_inputs(data, taken, described[0])
    with working(f"{runs} calls of each"):
        results = measure(described, found, threads, runs, memory, signature)
    lines = [str(result) for result in results]
    if len(results) > 1:
        lines += [
            f"{result.name} is {results[0].median / result.median:.2f}x as fast as "
            f"{results[0].name}"
            for result in results[1:]
        ]
    content = [dataclasses.asdict(result) for result in results]
    show("\n".join(lines), as_json, content)


def _random(artifact: Any, count: int) -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    found = {}
    for info in artifact.inputs:
        shape = (count, *(size or 1 for size in info.shape[1:]))
        values = rng.uniform(size=shape).astype("float32")
        # Integers without a scale are tokens, of which 0 and 1 always exist.
        whole = not info.quantized and "int" in info.dtype
        found[info.name] = values.round().astype(info.dtype) if whole else values
    return found
