"""`compile_for`: a .tflite file compiled for the NPUs of phones, ahead of time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tfcompress.child.probing import reading
from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.errors import (
    ArtifactError,
    ExportError,
    InvalidArgumentError,
    warn,
)
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import Artifact, Format
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.manifest_file import changed_since, read_manifest
from tfcompress.exporters.npu import CompiledFile, LeftToCPU
from tfcompress.exporters.publishing import check_free, folder_beside
from tfcompress.exporters.tflite.chips import Target, check_libraries, targets_of
from tfcompress.exporters.tflite.compiled_operators import (
    check_borders,
    layer_of_operator,
    left_in,
    own_layers,
)
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.exporters.tflite.play import build_file, readme

_SCRIPT = str(Path(__file__).with_name("_ahead_worker.py"))
#: What compiling for one chip may take, in seconds, and for all of them in bytes.
SECONDS, _MEMORY = 900, 16 << 30
#: The operator that all of the NPU's work has become.
DISPATCH = "DISPATCH_OP"


@dataclass(frozen=True)
class CompilingExporter(Exporter):
    """An exporter of .tflite files that has them compiled for NPUs, too.

    Args:
        compile_for: the chips, such as "qualcomm:SM8750", or a list of them.
    """

    compile_for: str | Sequence[str] | None = field(default=None, kw_only=True)

    def with_options(self, options: dict[str, Any]) -> Format:
        """Returns this exporter with some options replaced, if all can be done here."""
        found = super().with_options(options)
        check_libraries(targets_of(found.compile_for))  # type: ignore[attr-defined]
        return found

    def export(
        self, model: Any, filepath: Path, input_signature: Any, calibration_data: Any
    ) -> Artifact:
        """Writes `model`, and beside it what is compiled of it."""
        check_libraries(targets_of(self.compile_for))
        folder = folder_beside(filepath)
        if self.compile_for is not None:
            check_free(folder)
        elif self.overwrites and folder.is_dir():
            warn(f"What {folder} holds was compiled from the file that is replaced.")
        return super().export(model, filepath, input_signature, calibration_data)

    def written(
        self, source: Source, stage: Path, target: Path
    ) -> tuple[Artifact, dict[str, Any]]:
        """Writes the artifact, and compiles what was written."""
        artifact, noted = super().written(source, stage, target)
        targets = targets_of(self.compile_for)
        if targets:
            found = _compiled(artifact, targets, source.model, target.stem)
            artifact = replace(artifact, compiled=found)
        return artifact, noted


def check_alone(exporter: CompilingExporter) -> None:
    """Raises `InvalidArgumentError` for a file of several signatures."""
    if exporter.compile_for is not None:
        raise InvalidArgumentError(
            "Files of several signatures are not compiled for NPUs.",
            received=f"compile_for={exporter.compile_for!r} with several signatures",
            expected="one model, and one shape of its inputs",
            fix="export each signature to a file of its own",
        )


def known_compiled(filepath: Path) -> tuple[CompiledFile, ...]:
    """Returns what the manifest of a .tflite file says was compiled from it."""
    with contextlib.suppress(ArtifactError, OSError):
        manifest = read_manifest(filepath) or {}
        found = manifest.get("compiled", [])
        if found and not changed_since(manifest, filepath):
            return tuple(CompiledFile.from_dict(one, filepath.parent) for one in found)
    return ()


def refuse_compiled(artifact: Artifact) -> None:
    """Raises `ArtifactError` if a .tflite file is for an NPU, where it alone runs."""
    if any(operator.name == DISPATCH for operator in artifact.operators):
        raise ArtifactError(
            "The file was compiled for an NPU and runs nowhere else.",
            received=str(artifact.path),
            expected="a .tflite file of builtin operators",
            fix="load the file that it was compiled from, beside its folder",
        )


def _compiled(
    artifact: Artifact, targets: Sequence[Target], model: Any, name: str
) -> tuple[CompiledFile, ...]:
    """Compiles a staged file into the folder that is to appear beside it."""
    folder = folder_beside(artifact.path)
    folder.mkdir()
    pack = _pack_name(name)
    reply = _reply(artifact.path, folder, targets, name, pack)
    before, names = TFLiteFile.open(artifact.path), own_layers(model)
    found = tuple(
        _described(before, folder / file, target, names)
        for file, target in zip(reply["files"], targets)
    )
    module = folder / "ai_pack" / pack
    if module.is_dir():
        text = build_file(pack)
        (module / "build.gradle.kts").write_text(text, encoding="utf-8")
    text = readme(artifact, found, name, pack if module.is_dir() else None)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return found


def _reply(
    file: Path, folder: Path, targets: Sequence[Target], name: str, pack: str
) -> dict[str, Any]:
    chips = ", ".join(map(str, targets))
    most = SECONDS * len(targets)
    limits = {**reading(file), "cpu_seconds": most, "memory": _MEMORY}
    try:
        with scratch() as temporary:
            return WORKER.run(
                {
                    **limits,
                    "wall_seconds": most + 60,
                    "seconds": SECONDS,
                    "job": "compile_ahead",
                    "script": _SCRIPT,
                    "folder": str(folder.absolute()),
                    "scratch": temporary,
                    "targets": [(one.vendor.backend, one.chip) for one in targets],
                    "name": name,
                    "pack": pack,
                }
            )
    except ConverterFailure as failure:
        died = "died or took too long" if failure.died else "failed"
        packages = ", ".join(dict.fromkeys(one.vendor.package for one in targets))
        raise failure.as_error(
            f"LiteRT's compiler for {chips} {died}; nothing was written.",
            f"see whether {packages} is of the version of ai-edge-litert and whole; "
            "or export without `compile_for`: apps can compile on the device, too",
        ) from None


def _described(
    before: TFLiteFile, file: Path, target: Target, names: dict[str, str]
) -> CompiledFile:
    """Returns what became of a file's operators."""
    after = TFLiteFile.open(file)
    reason = f"{target.vendor.name}'s compiler did not take it"
    found = CompiledFile(
        chip=str(target),
        path=file,
        operators=len(before.operators),
        dispatches=sum(op.name == DISPATCH for op in after.operators),
        left=tuple(
            LeftToCPU(op.name, layer_of_operator(op, names), reason)
            for op in left_in(after, before, DISPATCH)
        ),
    )
    if not found.dispatches:
        raise ExportError(
            f"The NPU of {target} takes nothing of the model.",
            received=", ".join(dict.fromkeys(map(str, found.left))),
            expected="operators that the vendor's compiler knows, such as those of "
            "Conv2D and Dense in integers",
            fix="tfcompress.finalize(tfcompress.calibrate(model, data))",
        )
    check_borders(after, before, f"The compiler for {target}", "ai-edge-litert")
    return found


def _pack_name(name: str) -> str:
    """Returns a name that Play takes: a letter, then letters, digits, underscores."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if plain[:1].isalpha() else f"model_{plain}"
