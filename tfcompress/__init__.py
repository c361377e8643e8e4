"""tfcompress: make a Keras model smaller and faster during fit, and ship it."""

import importlib.metadata
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

try:
    __version__ = importlib.metadata.version("tfcompress")
except importlib.metadata.PackageNotFoundError:  # a copy that nobody installed
    __version__ = "0+unknown"

# What runs: "-m" while `python -m tfcompress` looks for what it is to run, or
# `python -m` another package, which imports this one.
_PROGRAM = PurePath((getattr(sys, "argv", None) or [""])[0]).stem
_IS_COMMAND = _PROGRAM == "tfcompress" or (
    _PROGRAM == "-m"
    and any(
        argument.removeprefix("-m").partition(".")[0] == "tfcompress"
        for argument in sys.orig_argv
    )
)

if TYPE_CHECKING or not _IS_COMMAND:
    # At once, so that Keras knows the layers of a model that is loaded next.
    from tfcompress.public import *  # noqa: F403
    from tfcompress.public import __all__ as __all__
else:
    # The command says its version and its options without TensorFlow.
    def __getattr__(name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        from tfcompress import public

        return getattr(public, name)
