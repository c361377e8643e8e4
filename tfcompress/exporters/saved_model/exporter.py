"""The "saved_model" format: a version directory that TF Serving can load."""

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tfcompress.core.arguments import one_of
from tfcompress.core.arrays import Unordered, by_name
from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.core.select import walk
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_batch_size, check_no_calibration
from tfcompress.exporters.comparing import Bound, compared
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.jail import JailedRunner, open_in_jail
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.manifest_file import manifest_path
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.saved_model.files import (
    ORDER_FILE,
    SIGNATURE,
    write_saved_model,
)
from tfcompress.exporters.saved_model.graph import (
    census,
    order_of_inputs,
    read_graph,
    without_notes,
)
from tfcompress.exporters.saved_model.programs import reaching_out
from tfcompress.exporters.saved_model.runner import SavedModelRunner
from tfcompress.exporters.saved_model.served import served
from tfcompress.exporters.saved_model.signatures import ServingSignatures
from tfcompress.exporters.saved_model.warmup import WARM_UP_FILE, write_warm_up
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tflite.exporter import TFLiteExporter
from tfcompress.exporters.tracing import TracedModel, trace
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.integers.sums import plain_arithmetic

_SCRIPT = str(Path(__file__).with_name("_worker.py"))


@EXPORTERS.register("saved_model")
@dataclass(frozen=True)
class SavedModelExporter(Exporter):
    """Writes `<base>/<version>/`, the layout TF Serving watches.

    `filepath` is a version directory, whose last part is a positive integer, or the
    base directory, in which the next free version is made. A version is written
    in a hidden directory `<base>/.tmp-...`, whose name a server does not take for a
    version, and appears under its number whole. It is never overwritten.

    Args:
        version: the version to write into the base directory `filepath`; None takes
            the number at the end of `filepath`, or else the next free one.
        batch_size: samples per call; None leaves it free.
        weights: "variables" stores every weight once, in its dtype; "compact" stores
            those that are 8-bit integers times a scale, or at most 256 different
            values, as bytes or half bytes, of which the very same floats are made when
            the model is loaded. Quantized models are stored so in any case.
        signatures: signatures for encoded images and labels; None for none.
        warm_up: samples that a server runs before the version takes traffic: an array,
            a list or a dict by input name. Each becomes one request.
        tflite: whether to put a `model.tflite` beside the SavedModel, which TF Serving
            runs with `--prefer_tflite_model`.
        exact_integers: whether a finalized quantized model computes its sums as integer
            kernels do, equal to the .tflite file. False leaves them in float32, and
            a rare value is one step off (pass that as `max_abs_error` to `verify`).
            What either costs is in docs/shipping.md.
    """

    version: int | None = None
    batch_size: int | None = None
    weights: str = "variables"
    signatures: ServingSignatures | None = None
    warm_up: Any = None
    tflite: bool = False
    exact_integers: bool = True

    limits: ClassVar[Limits] = Limits(
        "TensorFlow and TF Serving",
        activations=(),
        text_inputs=True,
        prices={8: "1.0 to 1.6 times (an LSTM in batches) the float model's time"},
    )

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns the version directory, if the options are as they must be."""
        check_no_calibration("saved_model", calibration_data)
        check_batch_size(self.batch_size)
        one_of(self.weights, "Unknown `weights`.", ("variables", "compact"))
        return self._version_directory(filepath)

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model, with sums as exact as the options say."""
        exact = self.exact_integers
        with contextlib.nullcontext() if exact else plain_arithmetic():
            traced = trace(model, self.batch_size, input_signature)
        if self._is_served(model):
            traced = served(traced)
        return Source(model, traced, self.batch_size, input_signature)

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Writes the version with what is asked for beside it, and compares it."""
        traced = source.traced
        more = self.signatures.functions(traced) if self.signatures else {}
        requests = self._warm_up_requests(traced)
        phone = self._phone(source.model, source.input_signature)
        write_saved_model(traced, stage, more)
        if self._is_served(source.model):
            without_notes(stage)
        if requests:
            name = stage.absolute().parent.name
            write_warm_up(stage / WARM_UP_FILE, name, SIGNATURE, requests)
        if phone is not None:
            (stage / "model.tflite").write_bytes(phone)
        written = _describe(stage, traced.inputs, traced.outputs)
        plain = self.exact_integers or not traced.fake_quantized
        bound = Bound(1e-3 if plain else 0.05)
        noted = compared(source.tried, written, "TensorFlow", bound, script=_SCRIPT)
        return written, noted

    def matches(self, filepath: Path) -> bool:
        """Returns whether the directory, or a version in it, is a SavedModel."""
        return filepath.is_dir() and _version_of(filepath) is not None

    def inspect(self, filepath: Path) -> Artifact:
        """Returns inputs and outputs of a version (of a base: of the newest one)."""
        return _inspect(_version_of(filepath) or filepath)[0]

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner that calls the signature `serving_default`."""
        path = _version_of(filepath) or filepath
        artifact, vouched = _inspect(path)
        if vouched:
            return SavedModelRunner(artifact, _module(path))
        return JailedRunner(artifact, path, "TensorFlow", _SCRIPT)

    def trusted_runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner that calls the signature here."""
        path = _version_of(filepath) or filepath
        check_files(path)
        return SavedModelRunner(_described(path), _module(path))

    def get_config(self) -> dict[str, Any]:
        """Returns the options, for `keras.saving`; samples are no option."""
        signatures = self.signatures and dataclasses.asdict(self.signatures)
        return {
            "version": self.version,
            "batch_size": self.batch_size,
            "weights": self.weights,
            "signatures": signatures,
            "tflite": self.tflite,
            "exact_integers": self.exact_integers,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SavedModelExporter":
        """Returns the exporter with the options `config`."""
        found = config.get("signatures")
        signatures = ServingSignatures(**found) if found else None
        return cls(**{**config, "signatures": signatures})

    def _is_served(self, model: Any) -> bool:
        layers = [layer for _, layer in walk(model)]
        quantized = any(isinstance(layer, FakeQuantize) for layer in layers)
        return quantized or self.weights == "compact"

    def _warm_up_requests(self, traced: TracedModel) -> list[dict[str, Any]]:
        if self.warm_up is None:
            return []
        columns = by_name(self.warm_up, traced.inputs)
        size = self.batch_size or 1
        count = len(next(iter(columns.values())))
        return [
            {name: column[start : start + size] for name, column in columns.items()}
            for start in range(0, count - size + 1, size)
        ]

    def _phone(self, model: Any, input_signature: Any) -> bytes | None:
        if not self.tflite:
            return None

        traced = trace(model, self.batch_size, input_signature, convertible=True)
        return TFLiteExporter(batch_size=self.batch_size).content(traced)

    def _version_directory(self, filepath: Path) -> Path:
        if filepath.suffix == ".tflite":
            raise _bad_version(filepath)
        if self.version is not None:
            if not isinstance(self.version, int) or self.version < 1:
                raise _bad_version(self.version)
            return filepath / str(self.version)
        if filepath.name.isascii() and filepath.name.isdigit():
            if int(filepath.name) < 1 or filepath.name[0] == "0":
                raise _bad_version(filepath)
            return filepath
        if (filepath / "saved_model.pb").exists():
            raise _bad_version(filepath)
        return filepath / str(max(_versions(filepath), default=0) + 1)


def _versions(base: Path) -> list[int]:
    if not base.is_dir():
        return []
    names = [entry.name for entry in base.iterdir() if entry.is_dir()]
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def _version_of(path: Path) -> Path | None:
    if (path / "saved_model.pb").is_file():
        return path
    for version in sorted(_versions(path), reverse=True):
        if (path / str(version) / "saved_model.pb").is_file():
            return path / str(version)
    return None


def _inspect(path: Path) -> tuple[Artifact, bool]:
    """Returns the description of a SavedModel, and whether this process made it."""
    vouched = check_files(path)
    _refuse_programs(path)
    artifact = _described(path)
    if not vouched:
        # A damaged one may take the process with it.
        open_in_jail(path, "TensorFlow", _SCRIPT)
    return artifact, vouched


def _module(path: Path) -> Any:
    import tensorflow as tf

    try:
        module = tf.saved_model.load(str(path))
        _ = module.signatures[SIGNATURE]
    except Exception as error:
        raise _unloadable(path, error) from error
    return module


def _unloadable(path: Path, error: Exception) -> ArtifactError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ArtifactError(
        "The SavedModel cannot be loaded.",
        received=f"{path} ({reason})",
        expected="a whole SavedModel with the signature 'serving_default'",
        fix="export the model again",
    )


def _described(path: Path) -> Artifact:
    """Returns what the file says of its signature, without loading it."""
    order = _order(path)
    try:
        graph = read_graph(path)
        signature = graph.signature_def[SIGNATURE]
        if not signature.outputs:
            # Asking a protocol buffer for a name makes it one of its names.
            names = sorted(n for n in graph.signature_def if n[:2] != "__")
            names.remove(SIGNATURE)
            raise ArtifactError(
                f"The SavedModel has no signature {SIGNATURE!r}.",
                received=f"{path} with {', '.join(names) or 'no signature'}",
                expected=f"a signature {SIGNATURE!r}, which servers call",
                fix="save it anew, with signatures={'serving_default': function}",
            )
        return _describe(
            path,
            _inputs(signature.inputs, order["inputs"], graph),
            _tensors(signature.outputs, order["outputs"]),
        )
    except ArtifactError:
        raise
    except Exception as error:  # damage shows as any exception of the reader
        raise _unloadable(path, error) from error


def _refuse_programs(path: Path) -> None:
    """Raises `ArtifactError` if the graph is damaged, or does more than to compute."""
    try:
        found = reaching_out(path)
    except Exception as error:  # damage shows as any exception of the reader
        raise ArtifactError(
            "The SavedModel is damaged or truncated.",
            received=f"{path / 'saved_model.pb'} ({error})",
            expected="a whole SavedModel",
            fix="export the model again, or copy the directory again",
        ) from error
    if found:
        raise ArtifactError(
            "The SavedModel may do more than compute: read or write files, wait, or "
            "end the process.",
            received=f"{path} with {', '.join(found)}",
            expected="operators that are known to only compute",
            fix="if you trust whoever made it, load(path, trusted=True)",
        )


def _order(path: Path) -> dict[str, list[str]]:
    """Returns the names of inputs and outputs in their order, where that is known."""
    order: dict[str, list[str]] = {"inputs": [], "outputs": []}
    try:
        found = json.loads((path / ORDER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return order
    for side in order:
        with contextlib.suppress(KeyError, TypeError):
            order[side] = [str(name) for name in found[side]]
    return order


def _inputs(specs: Any, order: list[str], graph: Any) -> tuple[TensorInfo, ...]:
    """Returns the inputs in the order in which the model takes them, if it is known."""
    known = order if sorted(order) == sorted(specs) else order_of_inputs(graph, specs)
    found = _tensors(specs, known or [])
    for info in found:
        if not info.shape:
            raise ArtifactError(
                f"Input {info.name!r} of the SavedModel takes no samples.",
                received="a single value",
                expected="inputs with samples along their first axis",
                fix="call tf.saved_model.load(path) itself, or save a signature that "
                "takes batches",
            )
    return found if known or len(found) < 2 else Unordered(found)


def _tensors(specs: Any, order: list[str]) -> tuple[TensorInfo, ...]:
    import tensorflow as tf

    names = order if sorted(order) == sorted(specs) else sorted(specs)
    for name in names:
        if specs[name].tensor_shape.unknown_rank:
            raise ArtifactError(
                f"Tensor {name!r} of the SavedModel has no number of axes.",
                received="a shape that is not known",
                expected="shapes of which the sizes alone are free",
                fix="give tf.TensorSpec a shape, such as (None, 4)",
            )
    return tuple(
        TensorInfo(
            name,
            tuple(tf.TensorShape(specs[name].tensor_shape)),
            tf.dtypes.as_dtype(specs[name].dtype).name,
        )
        for name in names
    )


def _describe(
    path: Path, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]
) -> Artifact:
    found = {
        Path(folder) / name for folder, _, names in os.walk(path) for name in names
    }
    files = tuple(sorted(found - {manifest_path(path)}))
    operators = census(path, SIGNATURE)
    return Artifact(
        path=path,
        format="saved_model",
        inputs=inputs,
        outputs=outputs,
        files=files,
        operators=operators,
    )


def _bad_version(received: Any) -> InvalidArgumentError:
    return InvalidArgumentError(
        "A SavedModel goes into a numbered version directory.",
        received=str(received),
        expected="<base>/<version>, where <version> is 1, 2, 3 ..., or a <base> "
        "directory in which the next free version is made",
        fix='for example "savedmodels/student/1"',
    )
