"""tfcompress export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tfcompress.cli.app import Json, Modules, Pixels, app, show, working
from tfcompress.cli.inputs import (
    DATA_HELP,
    import_modules,
    is_keras,
    load_model,
    named_value,
    only_inputs,
    read_data,
)
from tfcompress.core.errors import InvalidArgumentError


@app.command()
def export(
    model: Annotated[
        Path, typer.Argument(help="A .keras, .h5 or .onnx file, or a float .tflite.")
    ],
    path: Annotated[Path, typer.Argument(help="Where to write.")],
    format: Annotated[str, typer.Option(help="Where it shall run.")] = "tflite",
    scheme: Annotated[
        str | None,
        typer.Option(help="Quantize first, such as w8a8; needs --calibration."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help=f"Typical inputs: {DATA_HELP}")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many of them.")] = 256,
    compile_for: Annotated[
        list[str],
        typer.Option(help="A chip such as qualcomm:SM8750; may be repeated."),
    ] = [],  # noqa: B006  (typer reads it)
    option: Annotated[
        list[str], typer.Option(help="name=value of the format; may be repeated.")
    ] = [],  # noqa: B006  (typer reads it)
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there.")
    ] = False,
    save_finalized: Annotated[
        Path | None,
        typer.Option(help="Write the model here that `verify` compares with, .keras."),
    ] = None,
    check: Annotated[
        Literal["error", "warn", "off"],
        typer.Option(help="If it differs from the model: error, warn or off."),
    ] = "error",
    pixels: Pixels = None,
    modules: Modules = [],  # noqa: B006  (typer reads it)
    as_json: Json = False,
) -> None:
    """Write a model for where it will live, in floats or calibrated integers.

    A float .tflite file is rounded as it is (`pip install 'tfcompress\\[quantizer]'`).

    Example: tfcompress export m.keras m.tflite --scheme w8a8 --calibration train.npz
    --save-finalized final.keras
    """
    import tfcompress
    from tfcompress.exporters.artifact import get_exporter
    from tfcompress.exporters.float_file.reading import float_file
    from tfcompress.exporters.publishing import staged
    from tfcompress.quantization.scheme import needs_data

    import_modules(modules)
    options = dict(map(named_value, option))
    options |= {"compile_for": compile_for} if compile_for else {}
    of_onnx = model.suffix.lower() == ".onnx"
    if not (is_keras(model) or of_onnx) and (
        model.exists() or model.suffix == ".tflite"
    ):
        options |= {"overwrite": True} if overwrite else {}
        options |= {} if scheme is None else {"scheme": scheme}
        _refuse_of_a_file(save_finalized, calibration, options)
        source = float_file(model)
        found = None
        if calibration is not None:
            data = read_data(calibration, [source], pixels, samples)
            found = only_inputs(data, samples, source)
        with working(f"Writing {path}"):
            artifact = tfcompress.export(
                model, path, format, None, found, check, **options
            )
        _show(artifact, as_json)
        return
    exporter = get_exporter(format)
    if overwrite and hasattr(exporter, "overwrite"):
        options["overwrite"] = True
    elif overwrite and save_finalized is None:
        raise InvalidArgumentError(
            f"An export to {format} replaces nothing: it makes a new directory.",
            received="--overwrite",
            expected="a path where nothing exists yet, or a base of versions",
        )
    if save_finalized is not None:
        _check_keras(save_finalized, overwrite)
    exporter.with_options(options)  # refused before the work
    loaded = tfcompress.from_onnx(model) if of_onnx else load_model(model)
    if scheme is not None and calibration is None and needs_data(scheme):
        raise InvalidArgumentError(
            "Integers need typical inputs for their ranges.",
            received=f"--scheme {scheme} without --calibration",
            expected=f"--calibration with {DATA_HELP}",
        )
    if scheme is None and calibration is not None:
        raise InvalidArgumentError(
            "Typical inputs are for integers, and no bits are given.",
            received=f"--calibration {calibration} without --scheme",
            expected="both, or neither: the model is then written as it is",
            fix="pass --scheme w8a8",
        )
    if scheme is not None:
        typical = None
        if calibration is not None:
            data = read_data(str(calibration), [loaded], pixels, samples)
            typical = only_inputs(data, samples, loaded)
        with working("Calibrating"):
            loaded = tfcompress.calibrate(loaded, typical, scheme)
    with working(f"Writing {path}"):
        finalized = tfcompress.finalize(loaded)
        artifact = tfcompress.export(
            finalized, path, format=format, check=check, **options
        )
    if save_finalized is not None:
        with staged(save_finalized, overwrite) as stage:
            finalized.save(stage)
    _show(artifact, as_json)


def _show(artifact: Any, as_json: bool) -> None:
    from tfcompress.cli.commands.inspect import described

    text = f"{artifact}, gzip {artifact.gzip_size:,}"
    if artifact.integer_coverage is not None:
        text += f", {artifact.integer_coverage:.0%} in integers"
    if artifact.signatures:
        names = ", ".join(one.name for one in artifact.signatures)
        text += f", signatures {names}"
    if artifact.npu is not None:
        text += f"; {artifact.npu}"
    text += "".join(f"; {one}" for one in artifact.compiled)
    show(text, as_json, described(artifact.path) if as_json else None)


def _refuse_of_a_file(
    save_finalized: Path | None, calibration: str | None, options: dict[str, Any]
) -> None:
    """Raises if something is asked of a .tflite file that only a model has."""
    if save_finalized is not None:
        raise InvalidArgumentError(
            "A .tflite file has no Keras model that could be saved.",
            received=f"--save-finalized {save_finalized}",
            expected="`tfcompress verify` with the float file as the reference",
        )
    if calibration is None and options.get("quantize") is None:
        raise InvalidArgumentError(
            "Integers need typical inputs for their ranges.",
            received="a .tflite file without --calibration",
            expected=f"--calibration with {DATA_HELP}",
            fix="or --option quantize=dynamic, or float16, which need none",
        )


def _check_keras(path: Path, overwrite: bool) -> None:
    """Raises unless a finalized model can be saved here."""
    from tfcompress.exporters.publishing import check_free, check_writable

    if path.suffix != ".keras":
        raise InvalidArgumentError(
            "A finalized model is saved as Keras does.",
            received=f"--save-finalized {path}",
            expected="a path that ends in .keras",
        )
    check_free(path, overwrite)
    check_writable(path)
