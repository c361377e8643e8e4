"""Code that calls the signatures of a .tflite file from an Android or an iOS app."""

from __future__ import annotations

from typing import Any

from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.tensors import SignatureInfo, TensorInfo
from tfcompress.exporters.tflite.app_names import (
    about,
    class_name,
    identifiers,
    said,
    size_of,
)

KOTLIN = {"float32": "Float", "int8": "Byte", "uint8": "Byte", "int32": "Int"}
SWIFT = {"float32": "Float32", "int8": "Int8", "uint8": "UInt8", "int32": "Int32"}

SWIFT_INIT = """\
  private let interpreter: Interpreter

  public init(path: String, threads: Int = 2) throws {
    var options = Interpreter.Options()
    options.threadCount = threads
    interpreter = try Interpreter(modelPath: path, options: options)
    try interpreter.allocateTensors()
  }
"""


def bytes_of(info: TensorInfo) -> int:
    """Returns how many bytes a tensor takes."""
    return size_of(info) * (1 if info.dtype in ("int8", "uint8") else 4)


def as_kotlin(info: TensorInfo) -> str:
    """Returns how a buffer is seen as the numbers of a tensor."""
    return {"float32": ".asFloatBuffer()", "int32": ".asIntBuffer()"}.get(
        info.dtype, ""
    )


def kotlin(artifact: Artifact, name: str, package: str) -> str:
    """Returns a Kotlin class with a function for each signature."""
    functions = "\n\n".join(_kotlin_function(*one) for one in _named(artifact))
    return f"""\
package {package}

import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

/** Runs {said(artifact)}. Make it once; it is not thread safe. */
class {name}(model: ByteBuffer, threads: Int = 2) : AutoCloseable {{
    private val interpreter =
        Interpreter(model, Interpreter.Options().setNumThreads(threads))

{functions}

    override fun close() = interpreter.close()

    private fun buffer(bytes: Int) =
        ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
}}
"""


def swift(artifact: Artifact, name: str) -> str:
    """Returns a Swift class with a function for each signature."""
    functions = "\n\n".join(_swift_function(*one) for one in _named(artifact))
    return f"""\
import Foundation
import TensorFlowLite

/// Runs {said(artifact)}. Make it once; it is not thread safe.
public final class {name} {{
{SWIFT_INIT}
{functions}

  private func values<T>(_ runner: SignatureRunner, _ name: String) throws -> [T] {{
    let data = try runner.output(named: name).data
    return data.withUnsafeBytes {{ Array($0.bindMemory(to: T.self)) }}
  }}
}}
"""


def _named(artifact: Artifact) -> list[tuple[SignatureInfo, str]]:
    """Returns each signature with the name of its function."""
    tensors = [TensorInfo(one.name, (), "float32") for one in artifact.signatures]
    return list(zip(artifact.signatures, identifiers(tuple(tensors))))


def _lines(function: Any, infos: tuple[TensorInfo, ...], between: str = "\n") -> str:
    names = identifiers(infos)
    return between.join(function(i, *pair) for i, pair in enumerate(zip(names, infos)))


def _kotlin_function(signature: SignatureInfo, name: str) -> str:
    given, made = signature.inputs, signature.outputs
    holder = f"{class_name(signature.name)}Outputs"
    fields = _lines(
        lambda i, n, t: f"        {about(t)}\n        val {n}: {KOTLIN[t.dtype]}Array",
        made,
        ",\n",
    )
    arguments = _lines(
        lambda i, n, t: f"        {about(t)}\n        {n}: {KOTLIN[t.dtype]}Array",
        given,
        ",\n",
    )
    before = _lines(
        lambda i, n, t: (
            f"        require({n}.size == {size_of(t)})\n"
            f"        val given_{i} = buffer({bytes_of(t)})\n"
            f"        given_{i}{as_kotlin(t)}.put({n})\n"
            f"        given_{i}.rewind()\n"
        ),
        given,
        "",
    )
    holders = _lines(
        lambda i, n, t: f"        val taken_{i} = buffer({bytes_of(t)})", made
    )
    after = _lines(
        lambda i, n, t: (
            f"        taken_{i}.rewind()\n"
            f"        val made_{i} = {KOTLIN[t.dtype]}Array({size_of(t)})\n"
            f"        taken_{i}{as_kotlin(t)}.get(made_{i})"
        ),
        made,
    )
    ins = ", ".join(f'"{t.name}" to given_{i}' for i, t in enumerate(given))
    outs = ", ".join(f'"{t.name}" to taken_{i}' for i, t in enumerate(made))
    results = ", ".join(f"made_{i}" for i in range(len(made)))
    return f"""\
    class {holder}(
{fields}
    )

    fun {name}(
{arguments}
    ): {holder} {{
{before}{holders}
        interpreter.runSignature(
            mapOf<String, Any>({ins}), mapOf<String, Any>({outs}),
            "{signature.name}"
        )
{after}
        return {holder}({results})
    }}"""


def _swift_function(signature: SignatureInfo, name: str) -> str:
    given, made = signature.inputs, signature.outputs
    holder = f"{class_name(signature.name)}Outputs"
    fields = _lines(
        lambda i, n, t: f"    {about(t)}\n    public let {n}: [{SWIFT[t.dtype]}]", made
    )
    arguments = _lines(
        lambda i, n, t: f"    {about(t)}\n    {n}: [{SWIFT[t.dtype]}]", given, ",\n"
    )
    checks = _lines(
        lambda i, n, t: f"    precondition({n}.count == {size_of(t)})\n", given, ""
    )
    feeds = ", ".join(
        f'"{t.name}": {n}.withUnsafeBytes {{ Data($0) }}'
        for n, t in zip(identifiers(given), given)
    )
    results = _lines(
        lambda i, n, t: f'      {n}: try values(runner, "{t.name}")', made, ",\n"
    )
    return f"""\
  public struct {holder} {{
{fields}
  }}

  public func {name}(
{arguments}
  ) throws -> {holder} {{
{checks}    let runner = try interpreter.signatureRunner(with: "{signature.name}")
    try runner.invoke(with: [{feeds or ":"}])
    return {holder}(
{results}
    )
  }}"""
