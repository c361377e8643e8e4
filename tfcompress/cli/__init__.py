"""The `tfcompress` command."""

from tfcompress.cli.app import app, main
from tfcompress.cli.commands import (  # noqa: F401  (each adds itself)
    archives,
    benchmark,
    compress,
    demo,
    doctor,
    export,
    inspect,
    layers,
    report,
    verify,
)

__all__ = ["app", "main"]
