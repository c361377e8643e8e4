"""Names for what Python's types cannot say of Keras."""

from typing import Any, TypeAlias

#: A tensor of the backend or of Keras, with values or without. What stands for one in a
#: graph is `core.graph.Tensor`.
AnyTensor: TypeAlias = Any
#: A tensor, or lists, tuples and dicts of such, as models take and return them.
Structure: TypeAlias = Any
