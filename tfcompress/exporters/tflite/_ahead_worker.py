"""The job of the child process that compiles a .tflite file for NPUs."""

import functools
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

_MODULES = "ai_edge_litert.aot"
_LOG = re.compile(r"See (.*\.error) for details")


def compile_ahead(job: dict[str, Any]) -> dict[str, Any]:
    """Compiles the file at `path` for each of `targets`, into `folder`.

    Each target has the name of LiteRT's module for its vendor and of its chip. `name`
    is what the model is called, in files, and `pack` what its AI pack is called.

    Returns for each target the file, or None for what phones have not, and for all of
    them whether there is an AI pack.
    """
    types = import_module(f"{_MODULES}.core.aot_types")
    fallback = import_module(f"{_MODULES}.vendors.fallback_backend")
    folder, scratch = Path(job["folder"]), Path(job["scratch"])
    found = types.CompilationResult()
    for vendor, chip in job["targets"]:
        found.models_with_backend += _compiled(job, vendor, chip, scratch)
    found.load()
    found.export(folder, job["name"])
    names = [
        f"{job['name']}{backend.target_id_suffix}.tflite"
        for backend, _ in found.models_with_backend
    ]
    # Phones of other chips get the file as it is.
    backend = fallback.FallbackBackend.create({"backend_id": "fallback"})
    plain = types.Model.create_from_bytes(Path(job["path"]).read_bytes())
    found.models_with_backend.append((backend, plain))
    packs = import_module(f"{_MODULES}.ai_pack.export_lib")
    packs.export(found, scratch / "ai_pack", job["pack"], job["name"])
    groups = scratch / "ai_pack" / job["pack"] / "src" / "main" / "assets"
    if len(list(groups.iterdir())) > 1:
        (scratch / "ai_pack").rename(folder / "ai_pack")
    return {"files": names}


def _compiled(job: dict[str, Any], vendor: str, chip: str, scratch: Path) -> list[Any]:
    """Returns the file for one chip, with LiteRT's description of the chip."""
    modules = f"{_MODULES}.vendors.{vendor}"
    import_module(f"{modules}.{vendor}_backend")
    target = import_module(f"{modules}.target")
    compiler = import_module(f"{_MODULES}.aot_compile")
    # LiteRT waits for ever for the program that it starts, which outlives this process.
    bounded = functools.partial(subprocess.run, timeout=job["seconds"])
    try:
        with mock.patch.object(subprocess, "run", bounded):
            result = compiler.aot_compile(
                job["path"],
                output_dir=scratch / vendor,
                target=target.Target(target.SocModel(chip)),
                keep_going=False,
            )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{chip}: no end after {job['seconds']} seconds") from None
    except ValueError as error:
        raise RuntimeError(f"{chip}: {_reason(str(error))}") from error
    return result.models_with_backend


def _reason(message: str) -> str:
    """Returns the last error that the compiler wrote, and logs all that it wrote."""
    named = _LOG.search(message)
    if named is None:
        return message
    text = Path(named[1]).read_text(encoding="utf-8", errors="replace")
    print(text, file=sys.stderr)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"ERROR|.*\[ERROR", line)]
    return (errors or lines or [message])[-1].removeprefix("ERROR: ")


JOBS = {"compile_ahead": compile_ahead}
