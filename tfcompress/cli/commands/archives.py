"""tfcompress pack, tfcompress unpack"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tfcompress.cli.app import Json, app, show, working


@app.command()
def pack(
    artifact: Annotated[Path, typer.Argument(help="A file or directory.")],
    path: Annotated[Path, typer.Argument(help="Where to write, such as model.tfc.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack an artifact for download: zeros and shared values take few bits.

    Example: tfcompress pack student.tflite student.tfc
    """
    from tfcompress import packing

    with working(f"Packing {artifact}") as tell:
        packed = packing.pack(artifact, path, overwrite, progress=tell)
    sizes = {"size": packed.size, "original_size": packed.original_size}
    show(str(packed), as_json, {"path": str(path), **sizes})


@app.command()
def unpack(
    path: Annotated[Path, typer.Argument(help="What `pack` wrote.")],
    directory: Annotated[Path, typer.Argument(help="Where to unpack.")],
    as_json: Json = False,
) -> None:
    """Unpack an archive: the same bytes as before, or nothing at all.

    Example: tfcompress unpack student.tfc here
    """
    from tfcompress import packing

    with working(f"Unpacking {path}"):
        unpacked = packing.unpack(path, directory)
    show(f"Unpacked {unpacked}", as_json, {"path": str(unpacked)})
