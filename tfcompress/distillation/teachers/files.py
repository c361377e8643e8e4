"""Teachers that are files: a .tflite model behind the face of a layer."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import ArtifactError
from tfcompress.core.registry import PACKAGE
from tfcompress.distillation.teachers.cache import load_interpreter, on_host
from tfcompress.distillation.teachers.cache_files import fingerprint


@keras.saving.register_keras_serializable(package=PACKAGE)
class TFLiteTeacher(keras.Layer):
    """A .tflite file as a teacher.

    For teachers of which only the deployed file is left. It runs in the LiteRT
    interpreter on the CPU, outside the compiled graph (so not with
    `jit_compile=True`); `cache_teacher` makes it run only once. A SavedModel needs
    no class of ours: pass `keras.layers.TFSMLayer(path, call_endpoint="serve")`.

    Args:
        filepath: a .tflite model with one input and one output. Integer inputs
            and outputs are converted to and from real numbers.
        **kwargs: passed to `keras.Layer`.

    Raises:
        ArtifactError: if the file is missing, is not a .tflite model, or has
            several inputs or outputs.

    Example:

    ```python
    teacher = TFLiteTeacher("teacher.tflite")
    distiller = Distiller(teacher, student, "soft_labels")
    ```
    """

    def __init__(self, filepath: str | os.PathLike, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(trainable=False, **kwargs)
        self.filepath = str(filepath)
        self._running = threading.Lock()
        try:
            content = Path(filepath).read_bytes()
            self._interpreter = load_interpreter(content)
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
        except (OSError, ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"The teacher's file cannot be loaded ({error}).",
                received=self.filepath,
                expected="a .tflite model",
            ) from error
        if len(inputs) != 1 or len(outputs) != 1:
            raise ArtifactError(
                "A .tflite teacher has one input and one output.",
                received=f"{len(inputs)} inputs and {len(outputs)} outputs",
                expected="one of each",
                fix="export the head you distil from by itself",
            )
        self._input, self._output = inputs[0], outputs[0]
        self.fingerprint = fingerprint(np.frombuffer(content, "uint8"))
        self.built = True

    def call(self, inputs: Any) -> Any:
        shape = self.compute_output_shape((None,))
        spec = [keras.KerasTensor(shape, "float32")]
        if isinstance(inputs, keras.KerasTensor):
            return spec[0]
        x = keras.ops.cast(inputs, "float32")
        return on_host(lambda batch: [self.predict(batch)], [x], spec)[0]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Returns the outputs for a batch of any size."""
        fixed = int(self._input["shape_signature"][0])
        size = len(x) if fixed == -1 else fixed
        parts = [self._run(x[i : i + size], size) for i in range(0, len(x), size)]
        return np.concatenate(parts)

    def _run(self, x: np.ndarray, size: int) -> np.ndarray:
        count = len(x)
        if count < size:  # the last part of a batch for a model of fixed size
            x = np.concatenate([x, np.repeat(x[-1:], size - count, axis=0)])
        runner, index = self._interpreter, self._input["index"]
        with self._running:
            if tuple(runner.get_input_details()[0]["shape"]) != x.shape:
                runner.resize_tensor_input(index, x.shape)
            runner.allocate_tensors()
            runner.set_tensor(index, _quantized(x, self._input))
            runner.invoke()
            result = runner.get_tensor(self._output["index"])
        return _real(result, self._output)[:count]

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0], *(int(n) for n in self._output["shape"][1:]))

    def get_build_config(self) -> dict[str, Any]:
        return {"input_shape": (None, *(int(n) for n in self._input["shape"][1:]))}

    def build_from_config(self, config: dict[str, Any]) -> None:
        pass  # the file has everything

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("trainable")
        return {**config, "filepath": self.filepath}


def _quantized(x: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if scale == 0.0 or dtype.kind == "f":
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(dtype)


def _real(x: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero = detail["quantization"]
    if scale == 0.0 or x.dtype.kind == "f":
        return x.astype("float32")
    return ((x.astype("float32") - zero) * scale).astype("float32")
