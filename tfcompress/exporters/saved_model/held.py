"""Weights that are stored as integers, and become floats when the model is loaded.

What loads a SavedModel restores its variables and then initializes its resources, in
Python (`tf.saved_model.load`) and in C++ (the init op of TF Serving). The checkpoint
has nothing of these floats, and the one resource here makes them of their integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.exporters.compact import as_codes


class Held:
    """Weights of a graph, by name.

    Attributes:
        variables: what the graph reads, and what is stored in its place.
        resources: what fills those that the checkpoint has not.
    """

    def __init__(self) -> None:
        self.variables: list[Any] = []
        self._known: dict[tuple, Any] = {}
        self._filled: list[tuple[Any, Any, Any]] = []

    def add(self, name: str, values: np.ndarray) -> Any:
        """Returns a variable that holds these values once the model is loaded."""
        content = (values.dtype.str, values.shape, values.tobytes())
        if content not in self._known:
            self._known[content] = self._variable(name, values)
        return self._known[content]

    def _variable(self, name: str, values: np.ndarray) -> Any:
        import tensorflow as tf

        found = as_codes(values)
        if found is None:
            variable = tf.Variable(values, trainable=False, name=name)
            self.variables.append(variable)
            return variable
        variable = tf.Variable(values, trainable=False, name=name)
        _leave_out_of_checkpoints(variable)
        stored = {
            part: tf.Variable(array, trainable=False, name=f"{name}/{part}")
            for part, array in found.parts.items()
        }
        self.variables += [variable, *stored.values()]
        self._filled.append((variable, stored, found.make))
        return variable

    def resources(self) -> tuple[Any, ...]:
        """Returns what fills the variables that the checkpoint has not."""
        return (_filler(self._filled),) if self._filled else ()


def _leave_out_of_checkpoints(variable: Any) -> None:
    """Lets a variable, and its copy in a graph that is saved, say that it has nothing.

    A variable of a free shape would do, too: nothing of it would be stored. But Keras'
    `TFSMLayer` and others read the shapes of the variables that they load.
    """
    export = variable._export_to_saved_model_graph

    def exported(object_map: dict, *args: Any, **kwargs: Any) -> Any:
        tensors = export(object_map, *args, **kwargs)
        object_map[variable]._serialize_to_tensors = dict
        return tensors

    variable._serialize_to_tensors = dict
    variable._export_to_saved_model_graph = exported


def _filler(filled: list[tuple[Any, Any, Any]]) -> Any:
    import tensorflow as tf

    class Filler(tf.saved_model.experimental.TrackableResource):
        """Is called when the model is loaded; a resource of its own it has not."""

        def _create_resource(self) -> Any:
            return tf.raw_ops.VarHandleOp(
                dtype=tf.float32, shape=(), shared_name="tfcompress_filler"
            )

        def _initialize(self) -> None:
            for variable, stored, make in filled:
                variable.assign(make({n: v.read_value() for n, v in stored.items()}))

        def _destroy_resource(self) -> None:
            """Leaves the others that bear the name alone."""

    return Filler()
