"""What `recurrent="fused"` can take, and how near its file is to the model.

The operator rounds in other places than the steps that the model was finalized with, so
the two are compared, and the manifest holds the difference.
"""

from __future__ import annotations

from typing import Any

from tfcompress.core.arguments import one_of
from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.core.samples import distance
from tfcompress.core.select import walk
from tfcompress.exporters import comparing
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.tflite import SCRIPT
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.exporters.tflite.fused_lstms import LSTM, fuse_lstms
from tfcompress.exporters.tflite.promises import layers_of

FUSED = "fused"
_UNROLLED = 'recurrent="unrolled"'
# As of files whose rounding is the converter's: a state of 8 bits drifts from one of 16
# as far as it does from the float model's, the more so the longer the sequence is.
_BOUND = comparing.Bound(0.1, average=True, steps=False)


def check_recurrent(value: Any) -> None:
    """Raises `InvalidArgumentError` for an option that there is not."""
    one_of(value, "Unknown `recurrent`.", ("unrolled", FUSED))


def check_options(exporter: Any) -> None:
    """Raises `InvalidArgumentError` for options that do not go with `recurrent`."""
    check_recurrent(exporter.recurrent)
    if exporter.recurrent != FUSED:
        return
    for name, allowed in (("sparse", False), ("smallest", None)):
        if getattr(exporter, name) != allowed:
            raise InvalidArgumentError(
                f'`recurrent="fused"` and `{name}` exclude each other.',
                received=f"{name}={getattr(exporter, name)!r}",
                expected=f"{name}={allowed!r}",
            )
    if exporter.batch_size is None:
        raise InvalidArgumentError(
            "LiteRT's LSTM operator keeps states for a fixed number of samples.",
            received="batch_size=None",
            expected="a whole number, such as batch_size=1",
            fix=f"give a number, or pass {_UNROLLED}",
        )


def check_alone(exporter: Any) -> None:
    """Raises `InvalidArgumentError` for a file of several signatures."""
    if exporter.recurrent == FUSED:
        raise InvalidArgumentError(
            "LiteRT's LSTM operator is for files of one signature.",
            received='recurrent="fused" with several signatures',
            expected="one model, and one shape of its inputs",
            fix=f"export each signature to a file of its own, or pass {_UNROLLED}",
        )


def check_model(exporter: Any, traced: Any) -> None:
    """Raises `InvalidArgumentError` for a model that is not one of integers."""
    if exporter.recurrent == FUSED and not traced.fake_quantized:
        raise InvalidArgumentError(
            "Only LSTMs in integers become LiteRT's operator.",
            received='recurrent="fused" with a float model',
            expected="a model made by `quantize_aware` or `calibrate`, and `finalize`",
            fix=f"quantize the model, or pass {_UNROLLED}",
        )


def use_fused_lstms(exporter: Any, model: Any) -> None:
    """Puts LiteRT's operator in the place of the steps of LSTMs, if asked to.

    Args:
        exporter: whose option says it.
        model: a .tflite file taken apart, whose slices are not yet splits.
    """
    if exporter.recurrent == FUSED:
        fuse_lstms(model)


def compared(source: Any, written: Artifact) -> dict[str, Any]:
    """Compares a file with its model; returns what the manifest says of it.

    Args:
        source: what was exported.
        written: the description of the file.

    Returns:
        As `comparing.compared`, and in "steps", for each output that is rounded, the
        largest and the mean difference.

    Raises:
        ExportError: if a recurrent layer is not in the operator, or the file is too far
            from the model.
    """
    _check_fused(TFLiteFile.open(written.path), source.model)
    tried = source.tried
    if tried.inputs is None:
        return comparing.compared(tried, written, "LiteRT", _BOUND, script=SCRIPT)
    rows = source.batch_size or 1
    job = {"script": SCRIPT}
    actual = comparing.outputs_of(tried, written, "LiteRT", rows, job)
    steps = _differences(tried.expected, actual, written)
    try:
        noted = comparing.judged(tried, written, "LiteRT", actual, _BOUND, rows=rows)
    except ExportError as error:
        raise ExportError(
            "LiteRT's LSTM operator computes something too far from the model.",
            received="; ".join(
                f"output {name!r} is off by {one['largest']:g} steps, and by "
                f"{one['mean']:g} on average"
                for name, one in steps.items()
            )
            or str(error),
            expected=f"outputs within {_BOUND.share:g} of the largest, on average",
            fix=f'pass {_UNROLLED}, or evaluate the file that check="warn" lets pass: '
            "it may be nearer to the float model than the finalized one is",
        ) from error
    return {**noted, "steps": steps}


def _differences(
    wanted: dict[str, Any], actual: dict[str, Any], written: Artifact
) -> dict[str, dict[str, float]]:
    """Returns the largest and the mean difference of rounded outputs, in steps."""
    found = {}
    for info in written.outputs:
        if info.step:
            expected = wanted[info.name]
            apart = distance(expected, actual[info.name].reshape(expected.shape))
            figures = {"largest": apart.max(), "mean": apart.mean()}
            found[info.name] = {
                name: round(float(value) / info.step, 3)
                for name, value in figures.items()
            }
    return found


def _check_fused(file: TFLiteFile, model: Any) -> None:
    """Raises `ExportError` for recurrent layers that are not in the operator."""
    names = {layer.name for _, layer in walk(model)}
    recurrent = {
        f"{name}_recurrent"
        for name in (one.removesuffix("_inputs") for one in names if "_inputs" in one)
        if f"{name}_recurrent" in names
    }
    unrolled = {name for op in file.operators for name in layers_of(op, recurrent)}
    if not unrolled and any(op.name == LSTM for op in file.operators):
        return
    said = ", ".join(f"'{one.removesuffix('_recurrent')}'" for one in sorted(unrolled))
    raise ExportError(
        "LiteRT's LSTM operator cannot compute every recurrent layer of the model.",
        received=said or "a model without any",
        expected="finalized LSTMs of two or more steps in 8 bits, with sigmoid and "
        "tanh, without masks, initial states and returned states",
        fix=f"pass {_UNROLLED}",
    )
