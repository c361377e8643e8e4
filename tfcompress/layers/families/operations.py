"""Operations of `keras.ops`, by the name of the class behind each.

An operation that has no row is not known. Why the work of some is not counted stands in
their row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfcompress.core.equation import Equation
from tfcompress.layers.rules import Unknown, fill
from tfcompress.layers.sizes import Shape, no_products


def _last_axis(operation: Any, shapes: list[Shape], output: Shape) -> int:
    """Matmul, dot and inner: every output is a sum along the last axis of the first."""
    if not all(shapes):
        return 0  # a number times a tensor
    return math.prod(output) * shapes[0][-1]


def _tensordot(operation: Any, shapes: list[Shape], output: Shape) -> int:
    axes = operation.axes
    first = shapes[0]
    if isinstance(axes, int):
        summed = first[len(first) - axes :]
    else:
        own = axes[0] if isinstance(axes[0], list | tuple) else [axes[0]]
        summed = tuple(first[axis] for axis in own)
    return math.prod(output) * math.prod(summed)


def _einsum(operation: Any, shapes: list[Shape], output: Shape) -> int:
    """Every letter is a loop; of more than two tensors, pair by pair as TensorFlow."""
    if len(shapes) < 2:
        return 0  # it moves axes, or sums
    equation = Equation.of(operation.subscripts).spelled([*map(len, shapes)])
    terms, target = [*equation.terms], equation.target
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes):
        for name, size in zip(term, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    total = 0
    for pair in _pairs(terms, target, shapes):
        read = [terms.pop(index) for index in sorted(pair, reverse=True)]
        names = set("".join(read))
        if len(pair) > 1:
            total += math.prod(sizes[name] for name in names)
        later = set(target).union(*terms)
        terms.append("".join(sorted(names & later)))
    return total


def _pairs(terms: list[str], target: str, shapes: list[Shape]) -> list[tuple]:
    if len(terms) == 2:
        return [(0, 1)]
    letters = {name: number for number, name in enumerate(set("".join(terms)))}
    operands: list[Any] = []
    for term, shape in zip(terms, shapes):
        operands += [np.empty(shape), [letters[name] for name in term]]
    path, _ = np.einsum_path(*operands, [letters[n] for n in target], optimize="greedy")
    return [step for step in path if step != "einsum_path"]


def _all_of_the_first(operation: Any, shapes: list[Shape], output: Shape) -> int:
    return math.prod(shapes[0])


def _convolution(operation: Any, shapes: list[Shape], output: Shape) -> int:
    kernel = shapes[1]
    return math.prod(output) // kernel[-1] * math.prod(kernel)


def _depthwise(operation: Any, shapes: list[Shape], output: Shape) -> int:
    return math.prod(output) * math.prod(shapes[1][:-2])


def _separable(operation: Any, shapes: list[Shape], output: Shape) -> int:
    pointwise = shapes[2]
    positions = math.prod(output) // pointwise[-1]
    return positions * (math.prod(shapes[1]) + math.prod(pointwise))


def _transposed(operation: Any, shapes: list[Shape], output: Shape) -> int:
    kernel = shapes[1]
    return math.prod(shapes[0]) // kernel[-1] * math.prod(kernel)


def _attention(operation: Any, shapes: list[Shape], output: Shape) -> int:
    """Scores and context of `(batch, time, heads, size)`; groups share their keys."""
    (batch, queries, heads, size), (_, keys, _, _), value = shapes[:3]
    return batch * queries * keys * heads * (size + value[-1])


def _patches(operation: Any, shapes: list[Shape], output: Shape) -> int:
    """Keras cuts patches out with a convolution whose kernel is the identity."""
    last = operation.data_format == "channels_last"
    rank = 3 if operation.is_3d else 2
    return math.prod(output) * output[-1 if last else -rank - 1]


def _grayscale(operation: Any, shapes: list[Shape], output: Shape) -> int:
    return math.prod(shapes[0]) if shapes[0] != output else 0


for _classes, _macs in (
    (("Matmul", "Dot", "Inner"), _last_axis),
    (("Tensordot",), _tensordot),
    (("Einsum",), _einsum),
    (("Vdot",), _all_of_the_first),
    (("Conv",), _convolution),
    (("DepthwiseConv",), _depthwise),
    (("SeparableConv",), _separable),
    (("ConvTranspose",), _transposed),
    (("DotProductAttention",), _attention),
    (("ExtractPatches",), _patches),
    (("RGBToGrayscale",), _grayscale),
):
    fill(_classes, macs=_macs)

# They move, compare and make numbers, or work on each; sums and means are among them.
_NO_PRODUCTS = """
Abs Absolute AdaptiveAveragePool AdaptiveMaxPool Add AffineTransform All AllClose
Amax Amin Angle Any Append Arange Arccos Arccosh Arcsin Arcsinh Arctan Arctan2
Arctanh Argmax Argmin Argpartition Argsort Array ArraySplit Average AveragePool
BatchNorm BinaryCrossentropy Bincount BitwiseAnd BitwiseInvert BitwiseLeftShift
BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor BroadcastTo CDist CTCDecode
CTCLoss Cast CategoricalCrossentropy Cbrt Ceil Celu Clip Concatenate Conj Conjugate
ConvertToTensor Copy Cos Cosh CountNonzero CropImages Cross Cumprod Cumsum Deg2rad
DepthToSpace Diag Diagflat Diagonal Diff Digitize Divide DivideNoNan Dsplit Dstack
Elu EmptyLike Equal Erf Erfc Erfinv Exp Exp2 ExpandDims Expm1 ExtractSequences Fabs
FakeQuantWithMinMaxVars Flip Fliplr Flipud Floor FloorDivide Fmax Fmin Fmod Fold
Full FullLike Gcd Gelu Geomspace GetItem Glu Greater GreaterEqual HSVToRGB
HardShrink HardSigmoid HardSilu HardTanh Heaviside Histogram Hsplit Hstack Hypot I0
Imag InTopK IsIn Isclose Isfinite Isinf Isnan Isneginf Isposinf Isreal Kron
LayerNorm Lcm Ldexp LeakyRelu LeftShift Less LessEqual Linspace Log Log10 Log1p Log2
LogSigmoid LogSoftmax Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr
LogicalXor Logspace Logsumexp MapCoordinates Max MaxPool Maximum Mean Median
Meshgrid Min Minimum Mish Mod Moments Moveaxis MultiHot Multiply NanToNum Nanargmax
Nanargmin Nancumprod Nancumsum Nanmax Nanmean Nanmedian Nanmin Nanpercentile Nanprod
Nanquantile Nanstd Nansum Nanvar Ndim Negative Nextafter Nonzero Normalize NotEqual
OneHot OnesLike Outer PSNR Pad PadImages Percentile Polar Power Prod Ptp Quantile
RGBToHSV RMSNorm Rad2deg Ravel ReLU Real Rearrange Reciprocal Relu Relu6 Repeat
Reshape Resize RightShift Roll Rot90 Round Rsqrt SaturateCast Scatter ScatterUpdate
SearchSorted SegmentMax SegmentMin SegmentProd SegmentReduction SegmentSum Select
Selu Sigmoid Sign Signbit Silu Sin Sinc Sinh Size Slice SliceUpdate SobelEdges
SoftShrink Softmax Softplus Softsign Sort SpaceToDepth SparseCategoricalCrossentropy
SparsePlus SparseSigmoid Sparsemax Split Sqrt Square Squareplus Squeeze Stack Std
StopGradient Subtract Sum Swapaxes Take TakeAlongAxis Tan Tanh TanhShrink Threshold
Tile TopK Trace Transpose Trapezoid Tril Triu TrueDivide Trunc Unfold Unique
UnravelIndex Unstack Vander Var View ViewAsComplex ViewAsReal Vsplit Vstack Where
ZerosLike
"""
fill(_NO_PRODUCTS.split(), macs=no_products)

_DECOMPOSITIONS = """
Cholesky CholeskyInverse Det Eig Eigh Inv Logdet Lstsq LuFactor MatrixRank Norm
PerspectiveTransform Pinv Qr SVD Slogdet Solve SolveTriangular
"""
_FOURIER = "FFT FFT2 IFFT2 IRFFT ISTFT RFFT STFT"
_FUNCTIONS = """
AssociativeScan Cond ForiLoop Function JVP Map Scan Switch VectorizedMap WhileLoop
"""
_FILTERS = "Corrcoef Correlate ElasticTransform GaussianBlur SSIM ScaleAndTranslate"

for _names, _reason in (
    (_DECOMPOSITIONS, "the work depends on an algorithm"),
    (_FOURIER, "a Fourier transform has no products to count"),
    (_FUNCTIONS, "it calls functions that are not seen"),
    (_FILTERS, "it is not known how much it multiplies"),
):
    fill(_names.split(), macs=Unknown(_reason))

fill(
    (
        *("BroadcastTo", "ExpandDims", "Flip", "GetItem", "Moveaxis"),
        *("Pad", "Ravel", "Repeat", "Reshape", "Roll", "Rot90", "Slice"),
        *("Squeeze", "Swapaxes", "Take", "Tile", "Transpose"),
        *("Amax", "Amin", "Max", "Min", "MaxPool", "DepthToSpace", "SpaceToDepth"),
        *("Maximum", "Minimum"),  # of a tensor and a number
        # Answers to what lies in a range.
        *("Greater", "GreaterEqual", "Less", "LessEqual"),
    ),
    flow="select",
)
fill(("Exp", "Gelu", "Log", "LogSoftmax", "Rsqrt"), flow="activate")
fill(("Matmul", "Mean", "Sum"), flow="arithmetic")
fill(("Cast", "OneHot"), flow="lookup")
fill(("Concatenate", "Stack", "Where"), flow="concatenate")
