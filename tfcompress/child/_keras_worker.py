"""Jobs of the child process: what memory the file of a Keras model asks for."""

import importlib
import json
import math
import zipfile
from typing import Any

# What Keras says of classes that it does not know.
_UNKNOWN_CLASS = (
    *("Could not locate", "cannot be imported", "register_keras"),
    *("Unknown layer", "Unknown object", "custom_object"),
)


def count(job: dict[str, Any]) -> dict[str, Any]:
    """Builds the model at `path` without its weights, and counts what they would be.

    A config of one kilobyte may ask for more memory than there is. Classes that are
    registered nowhere here leave the count open.
    """
    with zipfile.ZipFile(job["path"]) as archive:
        text = archive.read("config.json").decode()
    import keras

    if "tfcompress" in text:
        importlib.import_module("tfcompress")  # which registers its layers
    config = json.loads(text)
    config.pop("compile_config", None)  # whose optimizer looks at values
    try:
        try:
            # Outside of such a scope Keras would make all of them at once.
            with keras.StatelessScope(initialize_variables=False):
                model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        except ValueError:
            # A layer that looks at its values needs them, within this job's memory.
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        sizes = {id(v): math.prod(v.shape) for v in model.variables}
        return {"count": sum(sizes.values())}
    except Exception as error:
        if any(words in str(error) for words in _UNKNOWN_CLASS):
            return {"count": None}
        raise
    finally:
        keras.utils.clear_session()


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the .h5 file at `path`, whose config Keras builds in no other way."""
    import keras

    try:
        keras.saving.load_model(job["path"], compile=False)
    except Exception as error:
        if not any(words in str(error) for words in _UNKNOWN_CLASS):
            raise
    finally:
        keras.utils.clear_session()
    return {}


JOBS = {"count": count, "load": load}
