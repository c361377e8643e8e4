"""Code that calls an artifact from an Android or an iOS app."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.coreml import app_code as coreml
from tfcompress.exporters.publishing import check_free, staged
from tfcompress.exporters.tflite import app_signatures
from tfcompress.exporters.tflite.app_names import (
    RESERVED,
    about,
    class_name,
    identifiers,
    plain,
    said,
    shape_of,
    size_of,
)
from tfcompress.exporters.tflite.app_signatures import (
    KOTLIN,
    SWIFT,
    as_kotlin,
    bytes_of,
)
from tfcompress.exporters.tflite.delegates import notes


def write_callers(
    artifact: Artifact, directory: str | os.PathLike, package: str = "model"
) -> list[Path]:
    """Writes a Kotlin and a Swift class that run a .tflite file, and a README.

    Shapes, types, scales and zero points are those of the file. The README says which
    operators the GPU, NNAPI and Core ML delegates take. For a .mlpackage the class is
    in Swift alone, and calls Core ML.

    Use it when the file goes into an app.

    Args:
        artifact: a "tflite" artifact with a static batch, or a "coreml" artifact.
        directory: where to write; nothing may be there.
        package: the Kotlin package.

    Returns:
        The files.

    Raises:
        InvalidArgumentError: if it is neither, has a free shape, or a dtype that phones
            do not pass.
        ExportError: if the directory exists or the disk refuses.

    Example:

    ```python
    from tfcompress.exporters import write_callers

    phone = tfcompress.export(model, "app.tflite")
    write_callers(phone, "callers", package="org.example")
    ```
    """
    _check(artifact, package)
    name = class_name(artifact.path.stem)
    target, several = Path(directory), bool(artifact.signatures)
    if artifact.format == "coreml":
        texts = {
            f"{name}.swift": coreml.swift(artifact, name),
            "README.md": coreml.readme(artifact, name),
        }
    else:
        texts = {
            f"{name}.kt": (app_signatures.kotlin if several else _kotlin)(
                artifact, name, package
            ),
            f"{name}.swift": (app_signatures.swift if several else _swift)(
                artifact, name
            ),
            "README.md": _readme(artifact, name),
        }
    check_free(target)
    with staged(target) as stage:
        stage.mkdir()
        for file, text in texts.items():
            (stage / file).write_text(text, encoding="utf-8")
    return [target / file for file in texts]


def _check(artifact: Artifact, package: str) -> None:
    known: dict[str, dict[str, str]] = {"tflite": KOTLIN, "coreml": coreml.SWIFT}
    if not isinstance(artifact, Artifact) or artifact.format not in known:
        raise InvalidArgumentError(
            "Callers are for .tflite files and .mlpackage packages.",
            received=str(artifact),
            expected='what `export(..., format="tflite")` or `"coreml"` returned',
        )
    types = known[artifact.format]
    ends = artifact.signatures or (artifact,)
    for info in (info for one in ends for info in (*one.inputs, *one.outputs)):
        if None in info.shape or info.dtype not in types:
            raise InvalidArgumentError(
                f"Tensor {info.name!r} cannot be passed by generated code.",
                received=f"{info.dtype} of shape {info.shape}",
                expected=f"a static shape and one of {', '.join(types)}",
                fix="export with `batch_size=1`",
            )
    parts = package.split(".") if isinstance(package, str) else [""]
    good = all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) for part in parts)
    if not good or RESERVED.intersection(parts):
        raise InvalidArgumentError(
            "Bad Kotlin package.",
            received=repr(package),
            expected='"org.example", of names that are no words of Kotlin or Swift',
        )


def _kotlin(artifact: Artifact, name: str, package: str) -> str:
    given, made = identifiers(artifact.inputs), identifiers(artifact.outputs)
    arguments = ",\n".join(
        f"        {about(info)}\n        {identifier}: {KOTLIN[info.dtype]}Array"
        for identifier, info in zip(given, artifact.inputs)
    )
    fields = ",\n".join(
        f"        {about(info)}\n        val {identifier}: {KOTLIN[info.dtype]}Array"
        for identifier, info in zip(made, artifact.outputs)
    )
    checks = "\n".join(
        f"        require({identifier}.size == {size_of(info)})"
        for identifier, info in zip(given, artifact.inputs)
    )
    buffers = "\n".join(
        f"        val given_{i} = buffer({bytes_of(info)})\n"
        f"        given_{i}{as_kotlin(info)}.put({identifier})\n"
        f"        given_{i}.rewind()"
        for i, (identifier, info) in enumerate(zip(given, artifact.inputs))
    )
    holders = "\n".join(
        f"        val taken_{i} = buffer({bytes_of(info)})"
        for i, info in enumerate(artifact.outputs)
    )
    outputs = "\n".join(
        f"        taken_{i}.rewind()\n"
        f"        val made_{i} = {KOTLIN[info.dtype]}Array({size_of(info)})\n"
        f"        taken_{i}{as_kotlin(info)}.get(made_{i})"
        for i, info in enumerate(artifact.outputs)
    )
    ins = ", ".join(f"given_{i}" for i in range(len(given)))
    outs = ", ".join(f"{i} to taken_{i}" for i in range(len(made)))
    results = ", ".join(f"made_{i}" for i in range(len(made)))
    return f"""\
package {package}

import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

/** Runs {said(artifact)}. Make it once; it is not thread safe. */
class {name}(model: ByteBuffer, threads: Int = 2) : AutoCloseable {{
    class Outputs(
{fields}
    )

    private val interpreter =
        Interpreter(model, Interpreter.Options().setNumThreads(threads))

    fun run(
{arguments}
    ): Outputs {{
{checks}
{buffers}
{holders}
        interpreter.runForMultipleInputsOutputs(
            arrayOf<Any>({ins}), mapOf<Int, Any>({outs})
        )
{outputs}
        return Outputs({results})
    }}

    override fun close() = interpreter.close()

    private fun buffer(bytes: Int) =
        ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
}}
"""


def _swift(artifact: Artifact, name: str) -> str:
    given, made = identifiers(artifact.inputs), identifiers(artifact.outputs)
    arguments = ",\n".join(
        f"    {about(info)}\n    {identifier}: [{SWIFT[info.dtype]}]"
        for identifier, info in zip(given, artifact.inputs)
    )
    fields = "\n".join(
        f"    {about(info)}\n    public let {identifier}: [{SWIFT[info.dtype]}]"
        for identifier, info in zip(made, artifact.outputs)
    )
    feeds = "\n".join(
        f"    precondition({identifier}.count == {size_of(info)})\n"
        f"    try interpreter.copy({identifier}.withUnsafeBytes {{ Data($0) }}, "
        f"toInputAt: {position})"
        for position, (identifier, info) in enumerate(zip(given, artifact.inputs))
    )
    results = ",\n".join(
        f"      {identifier}: try values({position})"
        for position, identifier in enumerate(made)
    )
    return f"""\
import Foundation
import TensorFlowLite

/// Runs {said(artifact)}. Make it once; it is not thread safe.
public final class {name} {{
  public struct Outputs {{
{fields}
  }}

{app_signatures.SWIFT_INIT}
  public func run(
{arguments}
  ) throws -> Outputs {{
{feeds}
    try interpreter.invoke()
    return Outputs(
{results}
    )
  }}

  private func values<T>(_ index: Int) throws -> [T] {{
    let data = try interpreter.output(at: index).data
    return data.withUnsafeBytes {{ Array($0.bindMemory(to: T.self)) }}
  }}
}}
"""


def _ends(artifact: Artifact) -> list[tuple[str, Any]]:
    """Returns what has inputs and outputs, after how these are called."""
    named = [(f"{one.name}: ", one) for one in artifact.signatures]
    return named or [("", artifact)]


def _readme(artifact: Artifact, name: str) -> str:
    rows = "\n".join(
        f"| {kind} | {plain(info.name)} | {info.dtype} | {shape_of(info)} | "
        f"{'' if info.scale is None else info.scale} | "
        f"{'' if info.zero_point is None else info.zero_point} |"
        for of, one in _ends(artifact)
        for kind, tensors in ((f"{of}input", one.inputs), (f"{of}output", one.outputs))
        for info in tensors
    )
    return f"""\
# {said(artifact)}

| | name | type | shape | scale | zero point |
|---|---|---|---|---|---|
{rows}

- Android: add `com.google.ai.edge.litert:litert` to the app, put the file into
  `assets/` (with `noCompress "tflite"`), map it into memory and make `{name}(buffer)`.
- iOS: add the pod `TensorFlowLiteSwift`, put the file into the bundle and make
  `try {name}(path:)`.

Arrays are flat, the last axis varies fastest. The batch is part of the shape.

{notes(artifact)}"""
