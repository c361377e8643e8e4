"""Runners: the same call for every format, arrays in and arrays out."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.core.arrays import by_name
from tfcompress.core.errors import ArtifactError, InvalidArgumentError, one_line
from tfcompress.exporters.artifact import Artifact, TensorInfo

_BATCH = 256


class Runner:
    """Runs one model on arrays; subclasses say how one batch is run.

    `load` returns one. Call it with an array, a list of arrays in the order of
    `inputs`, or a dict by input name; samples lie along the first axis. It returns
    an array for one output, else a dict by output name.

    Args:
        inputs: the inputs of the model.
        outputs: the outputs of the model.

    Example:

    ```python
    runner = tfcompress.load("student.tflite")
    scores = runner(images)
    scores = runner({"image": images})
    ```
    """

    #: What to call it in tables.
    name = "runner"
    #: CPU threads asked for; None where the runtime decides itself.
    threads: int | None = None

    def __init__(self, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]):
        self.inputs = inputs
        self.outputs = outputs

    @property
    def batch_size(self) -> int | None:
        """Samples per call that the model is made for; None for any number."""
        return self.inputs[0].shape[0] if self.inputs[0].shape else None

    def __call__(
        self, arrays: Any, raw: bool = False
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Runs the model on all samples.

        Args:
            arrays: the inputs; any number of samples, also for a static batch.
            raw: whether quantized inputs and outputs are passed as the integers
                they are stored as, instead of as floats.

        Raises:
            InvalidArgumentError: if the arrays do not fit the inputs.
        """
        results = self.run(arrays, raw)
        return results[self.outputs[0].name] if len(results) == 1 else results

    def run(self, arrays: Any, raw: bool = False) -> dict[str, np.ndarray]:
        """Runs the model on all samples; returns a dict by output name always."""
        columns = self.prepare(arrays, raw)
        count = len(next(iter(columns.values())))
        size = self.batch_size or min(_BATCH, count)
        parts: dict[str, list[np.ndarray]] = {info.name: [] for info in self.outputs}
        for start in range(0, count, size):
            batch = {n: c[start : start + size] for n, c in columns.items()}
            taken = len(next(iter(batch.values())))
            if taken < size and self.batch_size:
                batch = {n: _padded(part, size) for n, part in batch.items()}
            for name, value in self.run_batch(batch).items():
                parts[name].append(_rows(value, size, taken))
        return {
            info.name: _finish(np.concatenate(parts[info.name]), info, raw)
            for info in self.outputs
        }

    def prepare(self, arrays: Any, raw: bool = False) -> dict[str, np.ndarray]:
        """Returns the inputs by name, in the dtypes the model takes."""
        columns = by_name(arrays, self.inputs)
        for info in self.inputs:
            array = columns[info.name]
            if len(array) == 0:
                raise InvalidArgumentError(
                    f"Input {info.name!r} holds no samples.",
                    received=f"shape {array.shape}",
                    expected="at least one sample along the first axis",
                )
            if info.scale is not None and not raw:
                columns[info.name] = quantized(array, info)
            elif array.dtype.name != info.dtype and info.dtype != "string":
                raise InvalidArgumentError(
                    f"Input {info.name!r} has the wrong dtype for raw=True.",
                    received=array.dtype.name,
                    expected=info.dtype,
                )
        return columns

    def run_batch(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one batch of prepared arrays; returns raw outputs by name."""
        return self.bind(batch)()

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that runs the model once on this prepared batch."""
        raise NotImplementedError


class TFLiteRunner(Runner):
    """Runs a .tflite file in LiteRT, on the CPU.

    Args:
        artifact: the file's description.
        threads: CPU threads; None leaves the choice to LiteRT.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None):
        super().__init__(artifact.inputs, artifact.outputs)
        self.name, self.threads = artifact.name, threads
        from tfcompress.exporters.flatbuffer import TFLiteFile

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


class SavedModelRunner(Runner):
    """Runs the signature `serving_default` of a loaded SavedModel.

    Args:
        artifact: the SavedModel's description.
        module: what `tf.saved_model.load` returned.
    """

    def __init__(self, artifact: Artifact, module: Any):
        super().__init__(artifact.inputs, artifact.outputs)
        self.name = artifact.name
        # The signature alone does not keep the variables alive.
        self._module = module
        self._signature = module.signatures["serving_default"]

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that calls the signature."""
        import tensorflow as tf

        feeds = {name: tf.constant(array) for name, array in batch.items()}

        def once() -> dict[str, np.ndarray]:
            try:
                outputs = self._signature(**feeds)
            except tf.errors.OpError as error:
                raise ArtifactError(
                    "TensorFlow cannot run this SavedModel.",
                    received=f"{self.name} ({one_line(error, 300)})",
                    expected="a graph that runs on inputs of its signature",
                    fix="the files may be damaged: export the model again",
                ) from error
            return {name: value.numpy() for name, value in outputs.items()}

        return once


class KerasRunner(Runner):
    """Runs a Keras model's inference pass under the names its artifacts have.

    Args:
        model: a built model; it stays as it was.
        input_signature: as in `export`, for subclassed models.
    """

    def __init__(self, model: keras.Model, input_signature: Any = None):
        from tfcompress.exporters.tracing import trace

        traced = trace(model, None, input_signature)
        super().__init__(traced.inputs, traced.outputs)
        self.name = model.name
        self._traced = traced

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that calls the traced model."""
        import tensorflow as tf

        feeds = [tf.constant(batch[info.name]) for info in self.inputs]

        def once() -> dict[str, np.ndarray]:
            outputs = self._traced.function(*feeds)
            return {name: value.numpy() for name, value in outputs.items()}

        return once


def quantized(array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Returns real values as the integers that stand for them.

    >>> quantized(np.array([0.0, 1.0, 99.0]), TensorInfo("x", (3,), "int8", 0.5, 3))
    array([  3,   5, 127], dtype=int8)
    """
    limits = np.iinfo(info.dtype)
    steps = np.rint(np.asarray(array, "float64") / info.scale) + info.zero_point
    return np.clip(steps, limits.min, limits.max).astype(info.dtype)


def dequantized(array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Returns the real values that integers stand for, as float32.

    >>> dequantized(np.array([3, 5], "int8"), TensorInfo("x", (2,), "int8", 0.5, 3))
    array([0., 1.], dtype=float32)
    """
    assert info.scale is not None
    assert info.zero_point is not None
    shifted = array.astype("int32") - info.zero_point
    return shifted.astype("float32") * np.float32(info.scale)


def _finish(array: np.ndarray, info: TensorInfo, raw: bool) -> np.ndarray:
    return array if raw or info.scale is None else dequantized(array, info)


def _padded(part: np.ndarray, size: int) -> np.ndarray:
    # Repeats a real sample: zeros could be no valid input.
    return np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])


def _rows(value: np.ndarray, size: int, taken: int) -> np.ndarray:
    # An output without a batch axis becomes one row per call.
    if value.ndim == 0 or value.shape[0] not in (size, taken):
        return value[None]
    return value[:taken]


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter
