"""An artifact, what an export leaves on disk, and what a format knows of it."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tfcompress.core.arguments import one_of, path_of
from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.core.registry import Registry
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.model_card import model_card
from tfcompress.exporters.npu import CompiledFile, NPUFigures
from tfcompress.exporters.publishing import folder_beside
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.signatures import Signature
from tfcompress.exporters.tensors import (
    OperatorCount,
    SignatureInfo,
    TensorInfo,
    known_signature,
)


@dataclass(frozen=True)
class Artifact:
    """A model on disk, in one deployment format.

    `export` returns one; `Artifact.read` makes one from a path.

    Args:
        path: the file, or the directory of a SavedModel version.
        format: the export format, "tflite" or "saved_model".
        inputs: the tensors it takes, in the order a list of arrays is read.
        outputs: the tensors it gives.
        files: every file that belongs to it.
        operators: census of operators and dtypes; empty where the format has none.
        integer_coverage: share, from 0 to 1, of the work (multiply-accumulates, and
            the values that other operators make) whose run-time tensors are all
            integers; None where the format has no such notion.
        npu: what the compiler of an NPU said of it; None where it is not for one.
        signatures: all signatures of an artifact that has several, the first of which
            `inputs` and `outputs` are of; empty where there is one.
        compiled: what was compiled of it for NPUs with `compile_for`, chip by chip.

    Example:

    ```python
    artifact = tfcompress.export(model, "student.tflite")
    print(artifact.size, artifact.gzip_size, artifact.integer_coverage)
    artifact = tfcompress.Artifact.read("savedmodels/student/1")
    ```
    """

    path: Path
    format: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    files: tuple[Path, ...]
    operators: tuple[OperatorCount, ...] = ()
    integer_coverage: float | None = None
    npu: NPUFigures | None = None
    signatures: tuple[SignatureInfo, ...] = ()
    compiled: tuple[CompiledFile, ...] = ()

    @classmethod
    def read(cls, filepath: Any) -> Artifact:
        """Returns the artifact that is stored at `filepath`.

        Raises:
            ArtifactError: if nothing is there, or it is damaged.
        """
        where = path_of(filepath, "filepath")
        return exporter_for(where).inspect(where)

    @property
    def name(self) -> str:
        """What to call it in tables: its file name, or "student/1" for a version."""
        absolute = self.path.absolute()
        return "/".join(absolute.parts[-2:]) if self.path.is_dir() else absolute.name

    @cached_property
    def size(self) -> int:
        """Bytes on disk, all files together."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def gzip_size(self) -> int:
        """Bytes after `gzip -9`; a directory is put into a plain tar file first."""
        if len(self.files) == 1 and self.files[0] == self.path:
            return gzip_bytes(self.path.read_bytes())
        return gzip_bytes(_tar(self.path, self.files))

    def model_card(
        self,
        *,
        license: str | None = None,
        datasets: Sequence[str] = (),
        base_model: str | None = None,
        description: str | None = None,
    ) -> str:
        """Returns a model card: a README.md for the place where the model is shared.

        When to use: before an artifact is given to others. All figures are those of its
        manifest; what nobody recorded stands under "What is not known". Read it, and
        fill the gaps by hand.

        Source: the format of the Hugging Face Hub's model cards, a YAML head and
        Markdown; Mitchell et al., "Model Cards for Model Reporting", 2019.

        Args:
            license: the license of the model, as the Hub writes it: "apache-2.0".
            datasets: names of the data that it was trained on.
            base_model: name of the model that was compressed.
            description: Markdown: what the model is for, and what it is not for.

        Returns:
            The text, to be written to a README.md beside the artifact.

        Raises:
            ArtifactError: if the files are not those of the manifest.

        Example:

        ```python
        phone = tfcompress.export(deployable, "student.tflite")
        card = phone.model_card(license="mit", datasets=["fashion_mnist"])
        pathlib.Path("README.md").write_text(card, encoding="utf-8")
        ```
        """
        return model_card(self, license, datasets, base_model, description)

    def moved(self, path: Path) -> Artifact:
        """Returns the description of the same files after they went to `path`."""
        files = tuple(path / file.relative_to(self.path) for file in self.files)
        compiled = tuple(
            dataclasses.replace(one, path=folder_beside(path) / one.path.name)
            for one in self.compiled
        )
        return dataclasses.replace(self, path=path, files=files, compiled=compiled)

    def of(self, signature: str) -> Artifact:
        """Returns the description with the inputs and outputs of another signature.

        Raises:
            InvalidArgumentError: if the artifact has none of that name.
        """
        known = {info.name: info for info in self.signatures}
        info = known[known_signature(signature, list(known), self.name)]
        return dataclasses.replace(self, inputs=info.inputs, outputs=info.outputs)

    def __str__(self) -> str:
        return f"{self.format} artifact {self.path} ({self.size:,} bytes)"

    def __fspath__(self) -> str:
        return os.fspath(self.path)


@dataclass(frozen=True)
class Format:
    """A deployment format; its fields are the options of an export.

    `Exporter` derives from it and says how artifacts are written.
    """

    limits: ClassVar[Limits] = Limits("a runtime of its own")
    #: Whether an artifact is one file; its manifest then stands beside it.
    one_file: ClassVar[bool] = False
    #: What a trial export is called; a SavedModel's folder is a version, a number.
    trial_name: ClassVar[str] = "1"
    #: The module that runs the format; its own memory is not the artifact's.
    runtime_module: ClassVar[str] = ""
    #: Packages that convert and run the format, whose versions the manifest holds.
    packages: ClassVar[tuple[str, ...]] = ()
    #: The format whose artifacts `compress` can measure in place of this one's, which
    #: need a device that is not at hand; empty if they can be measured here.
    measured_as: ClassVar[str] = ""

    @property
    def overwrites(self) -> bool:
        """Whether an existing file may be replaced."""
        return getattr(self, "overwrite", False)

    def export(
        self, model: Any, filepath: Path, input_signature: Any, calibration_data: Any
    ) -> Artifact:
        """Writes `model` to `filepath` atomically and returns what was written."""
        raise NotImplementedError

    def export_signatures(
        self,
        signatures: Sequence[Signature],
        filepath: Path,
        calibration_data: Any,
    ) -> Artifact:
        """Writes several signatures to `filepath`, as `export` does one.

        Raises:
            InvalidArgumentError: if artifacts of the format hold one signature.
        """
        raise InvalidArgumentError(
            f"An artifact of {type(self).__name__} holds one signature.",
            received=f"{', '.join(repr(one.name) for one in signatures)}",
            expected='format="tflite", whose files hold several',
            fix="export each of them on its own",
        )

    def matches(self, filepath: Path) -> bool:
        """Returns whether `filepath` looks like an artifact of this format."""
        raise NotImplementedError

    def inspect(self, filepath: Path) -> Artifact:
        """Returns the description of the artifact at `filepath`."""
        raise NotImplementedError

    def share_in_integers(self, artifact: Artifact) -> float | None:
        """Returns the share of an artifact's work that is done on integers here.

        Some files say it; of others it is the runtime that decides, on each machine
        anew. None where it is not known.
        """
        return artifact.integer_coverage

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner for the artifact at `filepath`, which a stranger may have
        made: what cannot be vouched for runs in a process of its own."""
        raise NotImplementedError

    def trusted_runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner in this process, for an artifact that the user trusts."""
        return self.runner(filepath, threads)

    def with_options(self, options: dict[str, Any]) -> Format:
        """Returns this exporter with some of its options replaced.

        Raises:
            InvalidArgumentError: if the format has no such option, or it is not as it
                must be: any word would be true.
        """
        known = [field.name for field in dataclasses.fields(self)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise InvalidArgumentError(
                f"{type(self).__name__} has no option {', '.join(map(repr, unknown))}.",
                received=", ".join(f"{name}={options[name]!r}" for name in unknown),
                expected=f"one of {', '.join(map(repr, known))}",
            )
        for field in dataclasses.fields(self):
            value = options.get(field.name, field.default)
            if isinstance(field.default, bool):
                problem = f"Option '{field.name}' is true or false."
                words = "on the command line true, yes, on, false, no or off"
                one_of(value, problem, (True, False), f"True or False; {words}")
        return dataclasses.replace(self, **options)

    def get_config(self) -> dict[str, Any]:
        """Returns the options, for `keras.saving`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Format:
        """Returns the exporter with the options `config`."""
        return cls(**config)


EXPORTERS: Registry[Format] = Registry("export format", Format)


def get_exporter(format: Any) -> Format:
    """Returns the exporter of a format's name, config or instance.

    Raises:
        InvalidArgumentError: if there is no such format.
    """
    return EXPORTERS.get(format)


def exporter_for(filepath: Path) -> Format:
    """Returns the exporter whose format the artifact at `filepath` has.

    Raises:
        ArtifactError: if nothing is there, or no format knows it.
    """
    if not filepath.exists():
        raise ArtifactError(
            "There is no artifact at this path.",
            received=str(filepath),
            expected="a file or directory written by `tfcompress.export`",
        )
    for name in EXPORTERS.names():
        exporter = EXPORTERS.get(name)
        if exporter.matches(filepath):
            return exporter
    raise ArtifactError(
        "This is not an artifact of a known format, or it is damaged.",
        received=str(filepath),
        expected=f"an artifact of format {' or '.join(EXPORTERS.names())}",
        fix="export the model again",
    )


def gzip_bytes(data: bytes) -> int:
    """Returns the size in bytes of `data` after `gzip -9`.

    >>> gzip_bytes(bytes(100_000)) < 200
    True
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return len(compressor.compress(data)) + len(compressor.flush())


def _tar(root: Path, files: tuple[Path, ...]) -> bytes:
    # Names and contents only: owner and time must not change the size.
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(files):
            entry = tarfile.TarInfo(str(file.relative_to(root)))
            content = file.read_bytes()
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
