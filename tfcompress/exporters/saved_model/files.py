"""Writes a traced model to a directory, as a SavedModel."""

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcompress.core.errors import ExportError
from tfcompress.core.select import unused_name
from tfcompress.exporters.tracing import TracedModel

# Servers ignore what they do not know in `assets.extra`; a signature has no order.
ORDER_FILE = Path("assets.extra") / "tfcompress.json"
SIGNATURE = "serving_default"


def write_saved_model(
    traced: TracedModel, directory: Path, more: Mapping[str, Any] | None = None
) -> None:
    """Saves a traced model with the signature `serving_default`, and `more` of them.

    Only what the graph reads is tracked, so that each variable is stored once.

    Raises:
        ExportError: if TensorFlow cannot write it.
        OSError: if the disk refuses.
    """
    import tensorflow as tf

    module = tf.Module()
    module.variables_ = _by_path(traced.variables)
    module.resources_ = list(traced.resources)
    try:
        with _silent_of_folders():
            tf.saved_model.save(
                module,
                str(directory),
                signatures={SIGNATURE: traced.function, **(more or {})},
                options=tf.saved_model.SaveOptions(
                    experimental_custom_gradients=False, save_debug_info=False
                ),
            )
    except tf.errors.OpError as error:
        # TensorFlow has its own names for a full or read-only disk.
        reason = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", error.message).strip()
        raise OSError(None, reason.splitlines()[0]) from error
    except (AssertionError, ValueError, TypeError) as error:
        raise ExportError(
            "TensorFlow could not save the model; nothing was left behind.",
            received=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            expected="a model whose state is in its layers and their variables",
            fix="keep lookup tables and other state as attributes of layers",
        ) from error
    (directory / ORDER_FILE).parent.mkdir()
    order = {
        "inputs": [tensor.name for tensor in traced.inputs],
        "outputs": [tensor.name for tensor in traced.outputs],
    }
    (directory / ORDER_FILE).write_text(json.dumps(order) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _silent_of_folders() -> Iterator[None]:
    """Keeps TensorFlow from logging a folder that is renamed or removed right after."""
    logger = logging.getLogger("tensorflow")

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Assets written to")

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _by_path(variables: Sequence[Any]) -> dict[str, Any]:
    """Returns variables by what Keras calls them, "block/conv/kernel"."""
    found: dict[str, Any] = {}
    for variable in variables:
        found[unused_name(variable.name.removesuffix(":0"), set(found))] = variable
    return found
