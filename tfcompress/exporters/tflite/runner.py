"""Runs .tflite files."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfcompress.core.errors import ArtifactError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile


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
            self._interpreter = _interpreter_class()(
                model_path=str(artifact.path), num_threads=threads
            )
            self._interpreter.allocate_tensors()
            self._check_signature()
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(
                "LiteRT cannot load the file.",
                received=f"{artifact.path} ({str(error).splitlines()[0]})",
                expected="a .tflite file of builtin operators",
            ) from error
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


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter
