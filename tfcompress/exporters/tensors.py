"""What is said of an artifact's inputs, outputs and operators."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of an artifact.

    Use it to see how an artifact wants to be called: `artifact.inputs[0].shape`.

    Args:
        name: the name in the artifact's signature.
        shape: one entry per axis; None where the artifact takes any size.
        dtype: "float32", "int8" ...
        scale: real value of one quantization step; None for unquantized tensors.
        zero_point: the integer that stands for 0.0; None for unquantized tensors.
        step: real value of one quantization step, also for a float output that is
            turned back from integers; None where nothing is quantized.

    Example:

    >>> TensorInfo("image", (1, 28, 28, 1), "int8", 0.5, -128).quantized
    True
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    step: float | None = None

    @property
    def quantized(self) -> bool:
        """Whether the tensor is stored as integers with a scale."""
        return self.scale is not None


@dataclass(frozen=True)
class OperatorCount:
    """How often an artifact uses one operator with one number format.

    Args:
        name: the operator, "CONV_2D".
        activations: dtypes of the tensors it reads and writes at run time.
        weights: dtypes of the constants it reads.
        count: number of such operators.
    """

    name: str
    activations: tuple[str, ...]
    weights: tuple[str, ...]
    count: int
