"""Why there is no .tflite file of a model, in the names of its layers."""

import re

from tfcompress.child.process import ConverterFailure
from tfcompress.core.errors import ExportError
from tfcompress.exporters.operations import (
    MISSING,
    layer_of,
    layers_with,
    named_paths,
)
from tfcompress.exporters.tracing import TracedModel


def conversion_error(failure: ConverterFailure, traced: TracedModel) -> ExportError:
    """Returns the error for a model that the converter did not take."""
    names = []
    for line in failure.message.splitlines():
        for label in ("TF Select ops:", "Flex ops:", "Custom ops:"):
            if line.strip().startswith(label):
                names += [n.strip() for n in line.split(label)[1].split(",")]
    if names:
        error = unsupported(sorted({name for name in names if name}), traced)
        error.log = failure.log
        return error
    if failure.died:
        return failure.as_error(
            "The TFLite converter crashed; nothing was written.",
            "try `batch_size=1`, `unroll=True` in recurrent layers, or "
            'format="saved_model"',
        )
    paths = named_paths(traced.model)
    scopes = re.findall(r'"([^"@]+)@', failure.message)
    places = dict.fromkeys(layer_of(scope, paths) for scope in scopes)
    named = ", ".join(f"'{place}'" for place in places if place)
    if named:
        kinds = dict.fromkeys(re.findall(r"'tfl?\.(\w+)' op", failure.message))
        failure.reason = f"{', '.join(kinds) or 'operations'} in {named}"
    return failure.as_error(
        "The TFLite converter refused the model; nothing was written.",
        "change the layer it names; in recurrent layers try `unroll=True`, and "
        "export with `batch_size=1`",
    )


def unsupported(names: list[str], traced: TracedModel) -> ExportError:
    """Returns the error for operators that LiteRT does not have."""
    layers = layers_with(traced.function, traced.model, names)
    places = [f"'{path}' ({name})" for path, name in layers.items() if path]
    known = [MISSING[name] for name in names if name in MISSING]
    fix = "; ".join(dict.fromkeys(known)) or (
        "replace the layers that use them; for recurrent layers pass "
        "batch_size=1 or use `unroll=True`"
    )
    if not known and any(None in info.shape[1:] for info in traced.inputs):
        fix = f"give `keras.Input` fixed sizes, which free ones take from layers; {fix}"
    return ExportError(
        "The model uses operations that LiteRT cannot run.",
        received=", ".join(names) + (f" in {', '.join(places)}" if places else ""),
        expected="operations of the TFLite built-in set",
        fix=f'{fix}; or use format="saved_model"',
    )
