"""What a manifest says of an artifact, as a page for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tfcompress.core.errors import ArtifactError
from tfcompress.exporters.manifest_file import changed_since, read_manifest

_UNKNOWN = "not recorded"


def model_card(
    artifact: Any,
    license: str | None,
    datasets: Sequence[str],
    base_model: str | None,
    description: str | None,
) -> str:
    """Returns the text of `Artifact.model_card`, which reads this file."""
    manifest = read_manifest(artifact)
    if manifest is not None and (changed := changed_since(manifest, artifact.path)):
        raise ArtifactError(
            "The manifest is of other files, and a card would describe those.",
            received=f"{artifact}: {', '.join(changed)} changed since",
            expected="the files whose SHA-256 its manifest holds",
            fix="export the model again, or remove the manifest",
        )
    known = manifest or {}
    model = known.get("model") or {}
    told = {
        "license": license,
        "datasets": list(datasets),
        "base_model": base_model,
        # What was made of a file may never have been a Keras model.
        "tags": ["tfcompress", *["keras"] * ("sha256" not in model), artifact.format],
    }
    sections = [
        f"# {_text(model.get('name') or artifact.name)}",
        description or "What this model is for is not recorded.",
        "## What it is\n\n" + _table(("", ""), _facts(artifact, model)),
        "## What it takes and gives\n\n" + _tensors(artifact),
        "## How it was made\n\n" + _making(known),
        "## How far it follows the model that it was made of\n\n" + _parity(known),
        "## How to run it\n\n```python\nimport tfcompress\n\n"
        f"model = tfcompress.load({artifact.name!r})\n"
        "outputs = model(inputs)        # arrays in, arrays out\n```",
        "## What is not known\n\n" + _gaps(manifest, told),
        "## Files\n\n" + _table(("file", "bytes", "SHA-256"), _files(artifact, known)),
    ]
    return _front_matter(told) + "\n\n".join(sections) + "\n"


def _front_matter(told: dict[str, Any]) -> str:
    import yaml

    given = {name: value for name, value in told.items() if value}
    return f"---\n{yaml.safe_dump(given, sort_keys=False, allow_unicode=True)}---\n\n"


def _facts(artifact: Any, model: dict[str, Any]) -> Iterable[tuple[str, str]]:
    def counted(name: str, write: str = "{:,}") -> str:
        return write.format(model[name]) if name in model else _UNKNOWN

    # A stranger's fake quantization leaves no bits in the manifest, but integers.
    bits = " and ".join(f"{count}" for count in model.get("activation_bits", ()))
    plain = "not quantized" if model and not artifact.integer_coverage else _UNKNOWN
    yield "format", artifact.format
    yield "size", f"{artifact.size:,} bytes, {artifact.gzip_size:,} gzipped"
    yield "parameters", counted("parameters")
    yield "zeros in its kernels", counted("kernel_sparsity", "{:.1%}")
    yield "activations", f"{bits} bits" if bits else plain
    if artifact.integer_coverage is not None:
        yield "work done in integers", f"{artifact.integer_coverage:.1%}"
    layers = model.get("layers")
    yield (
        "layers",
        ", ".join(f"{count} {name}" for name, count in layers.items())
        if layers
        else _UNKNOWN,
    )


def _tensors(artifact: Any) -> str:
    """Returns a table of inputs and outputs, one for each of several signatures."""
    if not artifact.signatures:
        return _ends(artifact)
    return "\n\n".join(
        f"Signature `{_text(one.name)}`:\n\n{_ends(one)}" for one in artifact.signatures
    )


def _ends(artifact: Any) -> str:
    rows = [
        (
            kind,
            info.name,
            " x ".join("any" if size is None else str(size) for size in info.shape),
            info.dtype,
            "" if info.scale is None else f"{info.scale:.6g}",
            "" if info.zero_point is None else str(info.zero_point),
        )
        for kind, infos in (("input", artifact.inputs), ("output", artifact.outputs))
        for info in infos
    ]
    return _table(("", "name", "shape", "dtype", "scale", "zero point"), rows)


def _making(known: dict[str, Any]) -> str:
    if not known:
        return "The file has no manifest, so nothing of this is recorded."
    recipe, versions = known["recipe"], known["versions"]
    lines = ["The recipe is not recorded: the model was not made by `compress`."]
    if recipe is not None:
        lines = ["By this recipe of `tfcompress.compress`:", _json(recipe)]
    lines += ["Exported with these options:", _json(known["options"])]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines.append(f"Versions: {named}")
    return "\n\n".join(lines)


def _parity(known: dict[str, Any]) -> str:
    compared, parity = known.get("compared"), known.get("parity")
    is_file = "sha256" in (known.get("model") or {})
    made_of = "the float file" if is_file else "a Keras model"
    lines = []
    if compared:
        lines.append(
            f"The export compared {compared['samples']} samples with the model: "
            f"within {compared['bound']}."
        )
    if parity:
        rows = [
            ("samples", f"{parity['samples']:,}"),
            ("largest difference", f"{parity['max_abs_error']:.6g}"),
            ("the same in quantization steps", _optional(parity["max_error_steps"])),
            ("same class", _optional(parity["agreement"], "{:.2%}")),
            ("passed", "yes" if parity["passed"] else "no"),
            *(("failure", failure) for failure in parity["failures"]),
        ]
        lines += [
            f"The last `tfcompress.verify` against {made_of}:",
            _table(("", ""), rows),
        ]
    return "\n\n".join(lines) or "It was not compared, or that is not recorded."


def _gaps(manifest: dict[str, Any] | None, told: dict[str, Any]) -> str:
    gaps = {
        "how it was made, and from what: there is no manifest": manifest is None,
        "under which license it may be used": not told["license"],
        "which model it was compressed from": not told["base_model"],
        "which data it was trained on": not told["datasets"],
        "how accurate it is, and on which data: a manifest holds no metric": True,
        "which people or cases it serves worse than others": True,
    }
    return "\n".join(f"- {gap}" for gap, is_open in gaps.items() if is_open)


def _files(artifact: Any, known: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    if known:
        for entry in known["files"]:
            yield entry["path"], f"{entry['size']:,}", entry["sha256"]
        return
    root = artifact.path if artifact.path.is_dir() else artifact.path.parent
    for file in artifact.files:
        path = file.relative_to(root).as_posix()
        yield path, f"{file.stat().st_size:,}", _UNKNOWN


def _json(content: Any) -> str:
    # Indented, so that no text in it can end the block.
    lines = json.dumps(content, indent=1, ensure_ascii=False).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _optional(value: float | None, write: str = "{:.2f}") -> str:
    return "" if value is None else write.format(value)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(value: str) -> str:
    """Returns text of a file, which is a stranger's, as text and not as Markdown.

    >>> _text("<b>a|b")
    '&lt;b>a\\\\|b'
    """
    line = " ".join(value.split())
    for sign, shown in (("&", "&amp;"), ("<", "&lt;"), ("\\", "\\\\"), ("|", "\\|")):
        line = line.replace(sign, shown)
    for sign in "[]`*":
        line = line.replace(sign, f"\\{sign}")
    return line
