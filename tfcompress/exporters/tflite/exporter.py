"""The "tflite" format: one file for LiteRT, on phones and small boards."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.arguments import one_of
from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_batch_size, check_suffix
from tfcompress.exporters.comparing import Bound, compared
from tfcompress.exporters.exporter import Source
from tfcompress.exporters.inputs import collect
from tfcompress.exporters.jail import open_in_jail
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import made_here
from tfcompress.exporters.operations import MISSING
from tfcompress.exporters.publishing import disk_error
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.saved_model.files import write_saved_model
from tfcompress.exporters.tflite import SCRIPT, ahead_of_time, fused, weight_only
from tfcompress.exporters.tflite.assembling import put_together
from tfcompress.exporters.tflite.averages import use_average_pools
from tfcompress.exporters.tflite.bounded import unbounded
from tfcompress.exporters.tflite.divergence import first_divergence
from tfcompress.exporters.tflite.encodings import OBJECTIVES, smallest
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.exporters.tflite.float_kernels import use_float_kernels
from tfcompress.exporters.tflite.int4 import PACKED, use_4_bit_weights
from tfcompress.exporters.tflite.int16 import use_64_bit_biases
from tfcompress.exporters.tflite.metadata import ModelDescription, with_metadata
from tfcompress.exporters.tflite.ordering import order_signature
from tfcompress.exporters.tflite.promises import check_promises
from tfcompress.exporters.tflite.refusals import conversion_error, unsupported
from tfcompress.exporters.tflite.reshapes import use_fewer_reshapes
from tfcompress.exporters.tflite.rewriting import take_apart
from tfcompress.exporters.tflite.runner import jailed_runner, open_runner
from tfcompress.exporters.tflite.several import signatures_in, write_signatures
from tfcompress.exporters.tflite.single_scale import use_single_scales
from tfcompress.exporters.tflite.splits import use_splits
from tfcompress.exporters.tflite.strides import leave_out_strides
from tfcompress.exporters.tflite.training import write_training
from tfcompress.exporters.tracing import TracedModel, trace
from tfcompress.exporters.weights_alone import bound_of
from tfcompress.layers import refuse

_IO_DTYPES = ("float32", "int8", "uint8", "int16")
_QUANTIZE = (None, "float16", "dynamic")
Samples = dict[str, np.ndarray] | None


@EXPORTERS.register("tflite")
@dataclass(frozen=True)
class TFLiteExporter(ahead_of_time.CompilingExporter):
    """Writes a .tflite file.

    A model with fake quantization becomes integer code; a float model stays float
    unless `quantize` or calibration data say otherwise.

    Args:
        batch_size: samples per call that the file is made for; None leaves it free.
        io_dtype: "float32", or "int8" / "uint8" ("int16" of activations of 16 bits) for
            a model whose inputs and outputs are integers; then `TensorInfo` holds
            scale and zero point.
        overwrite: whether an existing file may be replaced.
        quantize: None; "float16" to store float weights in half the bytes;
            "dynamic" to store them as 8-bit integers and compute in float.
        int4: which 4-bit kernels to store in half bytes: "exact" for those with
            which the runtime computes as fast and as exactly as with bytes (Dense),
            "all" for convolutions too (the smallest file; slower, and a few values
            may be off by two steps), "none".
        sparse: whether to store only the weights that are not zero, with their
            positions (`EXPERIMENTAL_SPARSITY`). A smaller file, but a larger zip; the
            runtime refuses some of them, and then there is no file.
        smallest: tries the encodings above in the runtime and takes the best one that
            loads and computes the same: by "raw" bytes, "zip" bytes or "latency".
            Float models may get 16-bit weights by it. None tries nothing.
        description: name, labels, normalisation and so on, written into the file as
            metadata of the official schema.
        recurrent: "fused" for LSTMs as LiteRT's one operator: a fraction of the bytes,
            slower on x86, and near the model but not equal to it. See `fused`.
        compute: of weight-only models ("w4"): "integer" rounds what layers are given
            to 8 bits as they run, "float" is equal to the model, and slower.
        compile_for: chips such as "qualcomm:SM8750", for whose NPUs LiteRT's compiler
            makes files in the folder `<name>_npu`; needs the vendor's libraries.
    """

    batch_size: int | None = 1
    io_dtype: str = "float32"
    overwrite: bool = False
    quantize: str | None = None
    int4: str = "exact"
    sparse: bool = False
    smallest: str | None = None
    description: ModelDescription | None = None
    recurrent: str = "unrolled"
    compute: str = "integer"

    one_file: ClassVar[bool] = True
    runtime_module: ClassVar[str] = "ai_edge_litert.interpreter"
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert",)
    limits: ClassVar[Limits] = Limits(
        "LiteRT",
        activations=(8, 16),
        prices={16: "5 (Dense) to 105 times (convolutions) the time of 8 bits"},
        text_inputs=True,
        missing=MISSING,
        layers=refuse(
            {
                "AdaptiveAveragePooling3D": "has no kernel at all",
                "AdaptiveMaxPooling3D": "has no kernel at all",
                "AveragePooling3D": "has no kernel at all",
                "ConvLSTM1D": "stays float; batch_size=1 only",
                "ConvLSTM2D": "stays float; batch_size=1 only",
                "ConvLSTM3D": "stays float; batch_size=1 only",
                "GRU": "float: batch_size=1, or `unroll=True`",
                "LSTM": "float: batch_size=1, or `unroll=True`",
                "MaxPooling3D": "has no kernel at all",
                "SimpleRNN": "float: batch_size=1, or `unroll=True`",
            },
            "tflite",
            "web",
        ),
    )

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        one_of(self.io_dtype, "Unknown `io_dtype`.", _IO_DTYPES)
        one_of(self.quantize, "Unknown `quantize`.", _QUANTIZE)
        one_of(self.int4, "Unknown `int4`.", PACKED)
        one_of(self.smallest, "Unknown `smallest`.", (None, *OBJECTIVES))
        one_of(self.compute, "Unknown `compute`.", ("integer", "float"))
        if self.quantize is not None and calibration_data is not None:
            raise InvalidArgumentError(
                "`quantize` and `calibration_data` exclude each other.",
                received=f"quantize={self.quantize!r} with calibration data",
                expected="calibration data alone, for 8-bit integers",
            )
        fused.check_options(self)
        check_batch_size(self.batch_size)
        check_suffix(filepath, ".tflite")
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model in float32, traced as converters understand it."""
        # LiteRT has no 16-bit float convolutions: mixed precision is for training.
        traced = trace(model, self.batch_size, input_signature, convertible=True)
        self._check_numbers(traced, calibration_data)
        fused.check_model(self, traced)
        samples = None
        if calibration_data is not None:
            samples = collect(calibration_data, traced.inputs, self.batch_size or 1)
        return Source(model, traced, self.batch_size, input_signature, samples)

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Converts the model in the child process and compares the file with it."""
        traced, samples = source.traced, source.samples
        if self.smallest is None:
            content = self.content(traced, samples)
        else:
            integer = traced.fake_quantized or samples is not None
            content, _ = smallest(
                lambda options: replace(self, **options).content(traced, samples),
                integer,
                self.smallest,
            )
        self._check_content(content, traced)
        if self.description is not None:
            content = with_metadata(content, self.description)
        stage.write_bytes(content)
        written = self.inspect(stage)
        if traced.fake_quantized:
            check_promises(TFLiteFile.open(stage), source.model)
        return written, self.compare(source, written)

    def export_signatures(
        self, signatures: Any, filepath: Path, calibration_data: Any
    ) -> Artifact:
        """Writes several signatures to one file, in which equal weights are once."""
        fused.check_alone(self)
        ahead_of_time.check_alone(self)
        if (training := signatures[0].training) is not None:
            given = signatures[0].input_signature, calibration_data
            return write_training(self, training, filepath, given)
        return write_signatures(self, signatures, filepath, calibration_data)

    def compare(
        self, source: Source, written: Artifact, signature: str | None = None
    ) -> dict[str, Any]:
        """Compares the file with its model; returns what the manifest says of it.

        Args:
            source: the model.
            written: the description of the file.
            signature: which of several signatures is that of the model.
        """
        if self.recurrent == fused.FUSED:
            return fused.compared(source, written)
        tried, rounded = source.tried, source.traced.fake_quantized
        bound = Bound(0.05) if rounded else bound_of(source.model, self.compute)
        if self.int4 == "all":
            # Convolutions of 4 bits round a few sums otherwise, as the option says.
            bound = replace(bound, promised=2.001)
        if self.quantize == "float16" or (self.smallest and not rounded):
            bound = Bound(0.02)
        elif self.quantize == "dynamic":
            bound = Bound(0.1, average=True)
        elif source.samples is not None:
            # Its ranges are those of the data: what they are good for is theirs alone.
            tried = tried.on(source.samples)
            bound = Bound(0.1, average=True, steps=False)

        def where() -> Any:
            if not tried.finished:
                return None
            return first_divergence(written, source.model, tried.inputs, 1, signature)

        job = {"script": SCRIPT, "signature": signature}
        return compared(tried, written, "LiteRT", bound, where, **job)

    def content(self, traced: TracedModel, samples: Samples = None) -> bytes:
        """Returns the bytes of the file for a traced model, not yet checked.

        Args:
            traced: the model.
            samples: calibration data, a column for each input.
        """
        with scratch() as directory:
            content = self._convert(traced, Path(directory), samples)
        content = order_signature(
            content, [i.name for i in traced.inputs], [o.name for o in traced.outputs]
        )
        if weight_only.is_weight_only(traced.model):
            how = self.compute, PACKED[self.int4]
            return weight_only.with_integer_weights(content, traced.model, *how)
        if self.sparse or not self._has_integers(traced, samples):
            return content  # its kernels are no plain arrays of integers
        return self._with_exact_numbers(content, traced)

    def _with_exact_numbers(self, content: bytes, traced: TracedModel) -> bytes:
        """Returns the file with kernels and biases as the model has them."""
        model = take_apart(content)
        use_4_bit_weights(model, PACKED[self.int4])
        use_single_scales(model)
        use_64_bit_biases(model)
        if traced.fake_quantized:
            weights = [np.asarray(weight) for weight in traced.model.weights]
            use_float_kernels(model, weights)
        use_average_pools(model)
        leave_out_strides(model)
        fused.use_fused_lstms(self, model)
        use_splits(model)
        use_fewer_reshapes(model)
        return put_together(model)

    def _has_integers(self, traced: TracedModel, samples: Samples) -> bool:
        calibrated = samples is not None
        return traced.fake_quantized or calibrated or self.quantize == "dynamic"

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TFLiteExporter":
        """Returns the exporter with the options `config`."""
        found = config.get("description")
        if not found:
            return cls(**config)
        found = {**found, "labels": tuple(found["labels"])}
        return cls(**{**config, "description": ModelDescription(**found)})

    def matches(self, filepath: Path) -> bool:
        """Returns whether the file has the .tflite identifier or name."""
        if not filepath.is_file():
            return False
        with filepath.open("rb") as file:
            head = file.read(8)
        return head[4:8] == b"TFL3" or filepath.suffix == ".tflite"

    def inspect(self, filepath: Path) -> Artifact:
        """Returns inputs, outputs and census of the file."""
        file = TFLiteFile.open(filepath)
        return Artifact(
            path=filepath,
            format="tflite",
            inputs=tuple(tensor.info for tensor in file.inputs),
            outputs=file.outputs_with_steps(),
            files=(filepath,),
            operators=file.census(),
            integer_coverage=file.integer_coverage(),
            signatures=signatures_in(file),
            compiled=ahead_of_time.known_compiled(filepath),
        )

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a LiteRT runner, after a first run in the child process."""
        artifact = self.inspect(filepath)
        ahead_of_time.refuse_compiled(artifact)
        if made_here(filepath):
            return open_runner(artifact, threads)
        # A damaged file can take the process with it: let it take the child.
        open_in_jail(filepath, "LiteRT", SCRIPT)
        file = TFLiteFile.open(filepath)
        if unbounded(file) is None:
            return open_runner(artifact, threads)
        return jailed_runner(artifact, file, SCRIPT, threads)

    def trusted_runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a LiteRT runner at once."""
        return open_runner(self.inspect(filepath), threads)

    def _check_numbers(self, traced: TracedModel, calibration_data: Any) -> None:
        if traced.fake_quantized and (calibration_data is not None or self.quantize):
            raise InvalidArgumentError(
                "The model carries its own quantization ranges already.",
                received="calibration data" if not self.quantize else self.quantize,
                expected="neither `calibration_data` nor `quantize`",
                fix="leave them out; the ranges from training are used",
            )
        others = calibration_data, self.quantize, self.sparse, self.smallest
        weight_only.check_alone(traced.model, others)
        integer = traced.fake_quantized or calibration_data is not None
        if self.io_dtype != "float32" and not integer:
            raise InvalidArgumentError(
                "A float model has no integer inputs and outputs.",
                received=f"io_dtype={self.io_dtype!r}",
                expected="a model made by `quantize_aware` or `calibrate`",
                fix="quantize the model, or pass `calibration_data`",
            )

    def _convert(self, traced: TracedModel, directory: Path, samples: Samples) -> bytes:
        calibration = None
        if samples is not None:
            calibration = directory / "calibration.npz"
            numbered = {f"input_{i}": c for i, c in enumerate(samples.values())}
            np.savez(calibration, **numbered)  # type: ignore[arg-type]
        output = directory / "model.tflite"
        try:
            write_saved_model(traced, directory / "saved_model")
            WORKER.run(
                {
                    "job": "convert",
                    "script": SCRIPT,
                    "saved_model": str(directory / "saved_model"),
                    "output": str(output),
                    "optimize": self._has_integers(traced, samples)
                    or self.quantize == "float16",
                    "float16": self.quantize == "float16",
                    "sparse": self.sparse,
                    "calibration": str(calibration) if calibration else None,
                    "inputs": [i.name for i in traced.inputs],
                    "batch_size": self.batch_size,
                    "io_dtype": self.io_dtype,
                }
            )
            return output.read_bytes()
        except ConverterFailure as failure:
            raise conversion_error(failure, traced) from None
        except OSError as error:
            raise disk_error(directory, error) from error

    def _check_content(self, content: bytes, traced: TracedModel) -> None:
        file = TFLiteFile(content, "the converter's output")
        if file.custom_operators:
            raise unsupported(file.custom_operators, traced)
        integer = [t for t in file.inputs + file.outputs if t.info.quantized]
        if self.io_dtype != "float32" and not integer:
            raise ExportError(
                "The converter could not make the inputs and outputs integers.",
                received=f"io_dtype={self.io_dtype!r}",
                expected="fake quantization on every input and output of the model",
                fix='pass io_dtype="float32", or quantize inputs and outputs',
            )
