"""Runs SavedModels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfcompress.core.errors import ArtifactError, one_line
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.runner import Runner


class SavedModelRunner(Runner):
    """Runs the signature `serving_default` of a loaded SavedModel.

    Args:
        artifact: the SavedModel's description.
        module: what `tf.saved_model.load` returned.
    """

    takes_many_calls = True

    def __init__(self, artifact: Artifact, module: Any):
        super().__init__(artifact.inputs, artifact.outputs)
        self.name = artifact.name
        # The signature alone does not keep the variables alive.
        self._module = module
        self._signature = module.signatures["serving_default"]

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that calls the signature."""
        import tensorflow as tf

        feeds = {name: tf.constant(array) for name, array in batch.items()}

        def once() -> dict[str, np.ndarray]:
            try:
                outputs = self._signature(**feeds)
            except tf.errors.OpError as error:
                raise ArtifactError(
                    "TensorFlow cannot run this SavedModel.",
                    received=f"{self.name} ({one_line(error, 300)})",
                    expected="a graph that runs on inputs of its signature",
                    fix="the files may be damaged: export the model again",
                ) from error
            return {name: value.numpy() for name, value in outputs.items()}

        return once
