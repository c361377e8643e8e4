"""Swift that calls a .mlpackage through Core ML."""

import json

from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tflite.app_names import (
    about,
    identifiers,
    plain,
    said,
    shape_of,
    size_of,
)

#: The types of Swift for those of Core ML's arrays.
SWIFT = {"float32": "Float32", "float16": "Float16", "int32": "Int32"}


def swift(artifact: Artifact, name: str) -> str:
    """Returns a class that loads the package and runs it on flat arrays.

    Args:
        artifact: a "coreml" artifact.
        name: the name of the class.
    """
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
        f"    let given_{position} = MLShapedArray<{SWIFT[info.dtype]}>(\n"
        f"      scalars: {identifier}, shape: [{', '.join(map(str, info.shape))}])"
        for position, (identifier, info) in enumerate(zip(given, artifact.inputs))
    )
    entries = ",\n".join(
        f"      {_text(info)}: MLMultiArray(given_{position})"
        for position, info in enumerate(artifact.inputs)
    )
    results = ",\n".join(
        f"      {identifier}: values(found_all, {_text(info)})"
        for identifier, info in zip(made, artifact.outputs)
    )
    return f"""\
import CoreML
import Foundation

/// Runs {said(artifact)}. Make it once.
public final class {name} {{
  public struct Outputs {{
{fields}
  }}

  private let loaded_model: MLModel

  /// The URL is that of the compiled model, `.mlmodelc`, which Xcode puts into the app.
  public init(contentsOf url: URL, computeUnits: MLComputeUnits = .all) throws {{
    let configuration = MLModelConfiguration()
    configuration.computeUnits = computeUnits
    loaded_model = try MLModel(contentsOf: url, configuration: configuration)
  }}

  public func run(
{arguments}
  ) throws -> Outputs {{
{feeds}
    let feature_provider = try MLDictionaryFeatureProvider(dictionary: [
{entries}
    ])
    let found_all = try loaded_model.prediction(from: feature_provider)
    return Outputs(
{results}
    )
  }}

  private func values<T: MLShapedArrayScalar>(
    _ found: MLFeatureProvider, _ name: String
  ) -> [T] {{
    // An output of the program is always there, and always an array.
    let array = found.featureValue(for: name)!.multiArrayValue!
    return MLShapedArray<T>(converting: array).scalars
  }}
}}
"""


def readme(artifact: Artifact, name: str) -> str:
    """Returns what the app's makers need to know.

    Args:
        artifact: a "coreml" artifact.
        name: the name of the class.
    """
    rows = "\n".join(
        f"| {kind} | {plain(info.name)} | {info.dtype} | {shape_of(info)} |"
        for kind, tensors in (("input", artifact.inputs), ("output", artifact.outputs))
        for info in tensors
    )
    return f"""\
# {said(artifact)}

| | name | type | shape |
|---|---|---|---|
{rows}

Put the package into the Xcode project, which compiles it, and make
`try {name}(contentsOf:)` with the URL of the `.mlmodelc` in the bundle. Where it is
downloaded, `MLModel.compileModel(at:)` compiles it.

Arrays are flat, the last axis varies fastest. The batch is part of the shape. This
code was parsed, and not run: Core ML is on Apple's systems only.
"""


def _text(info: TensorInfo) -> str:
    """Returns a name as a literal of Swift."""
    return json.dumps(info.name)
