"""Runs .tflite files."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.core.errors import ArtifactError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.jail import JailedRunner
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile


def open_runner(artifact: Artifact, threads: int | None = None) -> Runner:
    """Returns what runs a file in this process: of several signatures the first."""
    if not artifact.signatures:
        return TFLiteRunner(artifact, threads)
    return SignatureRunner(artifact, artifact.signatures[0].name, threads)


def jailed_runner(
    artifact: Artifact,
    file: TFLiteFile,
    script: str,
    threads: int | None,
    signature: str | None = None,
) -> Runner:
    """Returns what runs a stranger's file in the jailed child process.

    Args:
        artifact: the file's description.
        file: its content.
        script: that of the format's jobs.
        threads: CPU threads; None leaves the choice to LiteRT.
        signature: which of several; None for the first.
    """
    if not artifact.signatures:
        named = {
            "inputs_by_name": {t.info.name: t.index for t in file.inputs},
            "outputs_by_name": {t.info.name: t.index for t in file.outputs},
        }
        path = artifact.path
        return JailedRunner(artifact, path, "LiteRT", script, threads, **named)
    name = signature or artifact.signatures[0].name
    described = artifact.of(name)
    graph = next(one.graph for one in file.signatures if one.name == name)
    if any(operator.name == "ASSIGN_VARIABLE" for operator in file.graphs[graph]):
        raise ArtifactError(
            f"Signature {name!r} changes what the file keeps from call to call.",
            received=f"{artifact.path}, which this process has not made",
            expected="a file that you trust: the process for others may end between "
            "two calls, and forget",
            fix=f"load(path, trusted=True, signature={name!r}), if you made it",
        )
    runner = JailedRunner(
        described, artifact.path, "LiteRT", script, threads, signature=name
    )
    runner.whole = _takes_no_samples(described)
    runner.others = lambda other: jailed_runner(artifact, file, script, threads, other)
    return runner


class TFLiteRunner(Runner):
    """Runs a .tflite file in LiteRT, on the CPU.

    Args:
        artifact: the file's description.
        threads: CPU threads; None leaves the choice to LiteRT.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None):
        super().__init__(artifact.inputs, artifact.outputs)
        self.name, self.threads = artifact.name, threads
        file = TFLiteFile.open(artifact.path)
        self._in = {tensor.info.name: tensor.index for tensor in file.inputs}
        self._out = {tensor.info.name: tensor.index for tensor in file.outputs}
        try:
            self._interpreter = _opened(artifact.path, threads)
            self._check_signature()
        except (RuntimeError, ValueError) as error:
            raise _not_loaded(artifact.path, error) from error
        self._shapes = {
            d["index"]: tuple(d["shape"]) for d in self._interpreter.get_input_details()
        }

    def _check_signature(self) -> None:
        # A signature may name any tensors; only those of the graph hold values.
        for named, details in (
            (self._in, self._interpreter.get_input_details()),
            (self._out, self._interpreter.get_output_details()),
        ):
            if not {d["index"] for d in details}.issuperset(named.values()):
                raise ValueError("its signature names tensors that are not the graph's")

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that sets inputs, invokes and reads outputs."""
        interpreter = self._interpreter
        feeds = [(self._in[name], array) for name, array in batch.items()]
        changed = False
        for index, array in feeds:
            if self._shapes[index] != array.shape:
                interpreter.resize_tensor_input(index, array.shape)
                self._shapes[index] = array.shape
                changed = True
        if changed:
            interpreter.allocate_tensors()

        def once() -> dict[str, np.ndarray]:
            for index, array in feeds:
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return {n: interpreter.get_tensor(i) for n, i in self._out.items()}

        return once


class SignatureRunner(Runner):
    """Runs one of several signatures of a .tflite file in LiteRT, on the CPU.

    Those of one file that come of each other share an interpreter, and so what it keeps
    between calls, such as weights that one signature trains and another reads.

    Args:
        artifact: the file's description.
        signature: which of its signatures.
        threads: CPU threads; None leaves the choice to LiteRT.
        beside: a runner of another signature, whose interpreter this is to share.
    """

    def __init__(
        self,
        artifact: Artifact,
        signature: str,
        threads: int | None = None,
        beside: "SignatureRunner | None" = None,
    ):
        described = artifact.of(signature)
        super().__init__(described.inputs, described.outputs)
        self.name, self.threads = f"{artifact.name}:{signature}", threads
        self.whole = _takes_no_samples(described)
        self._first = beside or self
        self.others = lambda name: SignatureRunner(artifact, name, threads, self._first)
        try:
            self._interpreter: Any = (
                beside._interpreter if beside else _opened(artifact.path, threads)
            )
            self._call = self._interpreter.get_signature_runner(signature)
        except (RuntimeError, ValueError) as error:
            raise _not_loaded(artifact.path, error) from error

    @property
    def _turn(self) -> AbstractContextManager:
        return super()._turn if self._first is self else self._first._turn

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that calls the signature."""
        return lambda: self._call(**batch)


def _takes_no_samples(artifact: Artifact) -> bool:
    """Returns whether inputs have no common first axis, along which samples lie."""
    sizes = {info.shape[:1] for info in artifact.inputs}
    return len(sizes) != 1 or sizes == {()}


def _opened(path: Path, threads: int | None) -> Any:
    interpreter = _interpreter_class()(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _not_loaded(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        "LiteRT cannot load the file.",
        received=f"{path} ({str(error).splitlines()[0]})",
        expected="a .tflite file of builtin operators",
    )


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter
