"""Several signatures in one .tflite file: each is made on its own, and then merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfcompress.child.process import WORKER
from tfcompress.core.backend import require_tensorflow
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.exporter import Source
from tfcompress.exporters.manifest import model_facts, publish
from tfcompress.exporters.operations import refuse_random
from tfcompress.exporters.publishing import check_free
from tfcompress.exporters.signatures import Signature, naming
from tfcompress.exporters.tensors import SignatureInfo
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.exporters.tflite.merging import merged
from tfcompress.exporters.tflite.metadata import with_metadata


def write_signatures(
    exporter: Any,
    signatures: Sequence[Signature],
    filepath: Path,
    calibration_data: Any,
) -> Artifact:
    """Writes a file with a signature for each model, and describes it.

    Args:
        exporter: the `TFLiteExporter`, with its options.
        signatures: names and models, the first of which is the default.
        filepath: where the file is to appear.
        calibration_data: samples by the name of the signature; None for none.
    """
    require_tensorflow("export a model")
    samples = _samples_of(signatures, calibration_data)
    target = exporter.check(filepath, calibration_data)
    check_free(target, exporter.overwrites)
    WORKER.warm_up()
    sources = {}
    for one in signatures:
        with naming(one.name):
            given = one.model, one.input_signature, samples.get(one.name)
            sources[one.name] = source = exporter.source(*given)
            refuse_random(source.traced.function, source.model, exporter.limits.runtime)
    facts = {one.name: model_facts(one.model) for one in signatures}
    return publish(
        exporter,
        {**facts[signatures[0].name], "signatures": facts},
        target,
        lambda stage: _write(exporter, sources, stage),
        lambda: exporter.check(filepath, calibration_data),
    )


def signatures_in(file: TFLiteFile) -> tuple[SignatureInfo, ...]:
    """Returns what is said of the signatures of a file that has several."""
    if len(file.signatures) == 1:
        return ()
    return tuple(
        SignatureInfo(
            one.name,
            tuple(tensor.info for tensor in one.inputs),
            file.outputs_with_steps(one),
        )
        for one in file.signatures
    )


def _write(
    exporter: Any, sources: Mapping[str, Source], stage: Path
) -> tuple[Artifact, dict[str, Any]]:
    """Writes each signature as a file of its own, merges them, and compares each."""
    alone = replace(exporter, description=None)
    contents = {}
    with scratch() as folder:
        for number, (name, source) in enumerate(sources.items()):
            place = Path(folder) / f"{number}.tflite"
            with naming(name):
                alone.write(source, place)
            contents[name] = place.read_bytes()
    content = merged(contents)
    if exporter.description is not None:
        content = with_metadata(content, exporter.description)
    stage.write_bytes(content)
    written = exporter.inspect(stage)
    noted = {}
    for name, source in sources.items():
        with naming(name):
            noted[name] = exporter.compare(source, written.of(name), name)
    first = next(iter(noted.values()))
    return written, {**first, "signatures": noted}


def _samples_of(signatures: Sequence[Signature], data: Any) -> Mapping[str, Any]:
    names = [one.name for one in signatures]
    if data is None:
        return {}
    if not isinstance(data, Mapping) or sorted(data) != sorted(names):
        raise InvalidArgumentError(
            "`calibration_data` of several signatures are samples for each.",
            received=f"a dict of {', '.join(map(repr, data))}"
            if isinstance(data, Mapping)
            else type(data).__name__,
            expected=f"a dict of samples by {', '.join(map(repr, names))}",
        )
    return data
