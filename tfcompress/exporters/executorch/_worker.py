"""Jobs of the child process that writes and runs .pte files; it has PyTorch.

It gets the operators of an ONNX graph as JSON and its constants as arrays, so that it
needs neither TensorFlow nor Keras nor ONNX, and may be another Python.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional


def lower(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the graph of a job as the .pte file `output`.

    Returns which operators XNNPACK has taken, and which ExecuTorch's own kernels; or
    those that nobody knows here, and then nothing is written.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.capture._config import EdgeCompileConfig

    unknown = {node["type"] for node in job["nodes"]} - {*OPERATORS, *NUMBERS}
    if unknown:
        return {"unknown": sorted(unknown)}
    graph = Graph(job["nodes"], job["arrays"], job["inputs"], job["outputs"])
    samples = tuple(
        torch.zeros(shape, dtype=getattr(torch, dtype))
        for shape, dtype in job["samples"]
    )
    with torch.no_grad():
        program = torch.export.export(graph.eval(), samples, strict=False)
    import executorch.kernels.quantized  # noqa: F401  (registers its operators)

    lowered = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    taken, left = _operators(lowered.exported_program())
    written = lowered.to_executorch(ExecutorchBackendConfig())
    with open(job["output"], "wb") as file:
        file.write(written.buffer)
    return {"taken": taken, "left": left}


def call(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the file at `path` on the arrays of one call."""
    method = _method(job)
    given = [torch.from_numpy(job["arrays"][name].copy()) for name in job["inputs"]]
    start = time.perf_counter()
    made = method.execute(given)
    seconds = time.perf_counter() - start
    arrays = (value.numpy().copy() for value in made)
    return {"seconds": seconds, "arrays": dict(zip(job["outputs"], arrays))}


def _method(job: dict[str, Any]) -> Any:
    import executorch.kernels.quantized  # noqa: F401  (registers its operators)
    from executorch.runtime import Runtime

    def opened() -> Any:
        program = Runtime.get().load_program(job["path"])
        # The program has to live as long as its method.
        return program, program.load_method("forward")

    return (job["kept"](opened) if "kept" in job else opened())[1]


def _operators(program: Any) -> tuple[list[str], list[str]]:
    """Returns the names of the operators that a delegate took, and of the others."""
    taken, left = [], []
    for node in program.graph.nodes:
        if node.op == "call_function" and "getitem" not in str(node.target):
            if "executorch_call_delegate" not in str(node.target):
                left.append(_name(node))
                continue
            inner = getattr(program.graph_module, node.args[0].name)
            graph = inner.original_module.graph
            functions = (one for one in graph.nodes if one.op == "call_function")
            taken += [_name(one) for one in functions]
    return taken, left


def _name(node: Any) -> str:
    """Returns "aten.relu" of a node."""
    return ".".join(str(getattr(node.target, "_name", node.target)).split("::")[-2:])


class Graph(torch.nn.Module):
    """The operators of an ONNX graph, as PyTorch computes them."""

    def __init__(self, nodes: Any, arrays: Any, inputs: Any, outputs: Any):
        super().__init__()
        self.nodes, self.given, self.made = nodes, inputs, outputs
        self.kept: dict[str, str] = {}
        self.numbers: dict[str, list[int]] = {}
        kernels = [node for node in nodes if node["type"] == "DequantizeLinear"]
        tensors = {name for node in kernels for name in node["inputs"]}
        for name, array in arrays.items():
            if array.dtype == np.int64 and array.ndim < 2 and name not in tensors:
                self.numbers[name] = array.reshape(-1).tolist()  # shapes, axes
                continue
            self.kept[name] = f"constant_{len(self.kept)}"
            self.register_buffer(self.kept[name], torch.from_numpy(array.copy()))

    def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values: dict[str, Any] = dict(zip(self.given, arrays))
        values |= {name: getattr(self, kept) for name, kept in self.kept.items()}
        values |= self.numbers
        grids: dict[str, Any] = {}
        for node in self.nodes:
            given = [values[name] if name else None for name in node["inputs"]]
            if node["type"] == "DequantizeLinear":
                grids[node["outputs"][0]] = node["attributes"]
            grid = grids.get(node["inputs"][0])
            kinds = NUMBERS if all(isinstance(x, list) for x in given) else OPERATORS
            found = kinds[node["type"]](Call(node["attributes"], grid), *given)
            found = found if isinstance(found, tuple) else (found,)
            values |= zip(node["outputs"], found)
        return tuple(values[name] for name in self.made)


class Call:
    """One operator, with its attributes as they are in ONNX."""

    def __init__(self, attributes: dict[str, Any], grid: dict[str, Any] | None):
        self.attributes, self.grid = attributes, grid

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the same numbers behind a rounding, if those given were rounded."""
        if self.grid is None or "scale" not in self.grid:
            return x
        call = Call(self.grid, None)
        return OPERATORS["DequantizeLinear"](call, OPERATORS["QuantizeLinear"](call, x))

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": lambda _, x: torch.abs(x),
    "Add": lambda _, x, y: x + y,
    "Concat": lambda call, *x: torch.cat(x, call["axis"]),
    "Div": lambda _, x, y: x / y,
    "Elu": lambda call, x: functional.elu(x, call.get("alpha", 1.0)),
    "Erf": lambda _, x: torch.erf(x),
    "Exp": lambda _, x: torch.exp(x),
    "Expand": lambda _, x, shape: torch.broadcast_to(
        x, torch.broadcast_shapes(x.shape, shape)
    ),
    "Flatten": lambda call, x: torch.flatten(x, call.get("axis", 1)),
    "Floor": lambda _, x: torch.floor(x),
    "Identity": lambda _, x: x,
    "LeakyRelu": lambda call, x: functional.leaky_relu(x, call.get("alpha", 0.01)),
    "Log": lambda _, x: torch.log(x),
    "MatMul": lambda _, x, y: torch.matmul(x, y),
    "Max": lambda _, x, y: torch.maximum(x, y),
    "Min": lambda _, x, y: torch.minimum(x, y),
    "Mul": lambda _, x, y: x * y,
    "Neg": lambda _, x: -x,
    "Pow": lambda _, x, y: torch.pow(x, y),
    "Reciprocal": lambda _, x: torch.reciprocal(x),
    "Relu": lambda _, x: functional.relu(x),
    "Round": lambda _, x: torch.round(x),
    "Shape": lambda _, x: list(x.shape),
    "Sigmoid": lambda _, x: torch.sigmoid(x),
    "Softmax": lambda call, x: torch.softmax(x, call.get("axis", -1)),
    "Softplus": lambda _, x: functional.softplus(x),
    "Sqrt": lambda _, x: torch.sqrt(x),
    "Squeeze": lambda call, x, axes=None: torch.squeeze(x, axes or call["axes"]),
    "Sub": lambda _, x, y: x - y,
    "Tanh": lambda _, x: torch.tanh(x),
    "Transpose": lambda call, x: torch.permute(x, call["perm"]),
}
# What is done to shapes, which are lists of whole numbers here.
NUMBERS: dict[str, Callable[..., Any]] = {
    "Add": lambda _, x, y: [int(n) for n in np.add(x, y)],
    "Cast": lambda _, x: x,
    "Concat": lambda _, *x: [number for part in x for number in part],
    "Gather": lambda _, x, indices: [x[index] for index in indices],
    "Identity": lambda _, x: x,
    "Max": lambda _, x, y: [int(n) for n in np.maximum(x, y)],
    "Mul": lambda _, x, y: [int(n) for n in np.multiply(x, y)],
    "ReduceProd": lambda _, x, axes=None: [int(np.prod(x))],
    "Reshape": lambda _, x, shape: x,
    "Slice": lambda _, x, starts, ends, *more: x[starts[0] : ends[0]],
    "Squeeze": lambda _, x, axes=None: x,
    "Unsqueeze": lambda _, x, axes=None: x,
}
_RANGE = -128, 127, torch.int8


def operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds a function to the operators, by its name."""
    words = function.__name__.strip("_").split("_")
    OPERATORS["".join(word.capitalize() for word in words)] = function
    return function


@operator
def quantize_linear(call: Call, x: Any) -> Any:
    return torch.ops.quantized_decomposed.quantize_per_tensor.default(
        x, call["scale"], call["zero_point"], *_RANGE
    )


@operator
def dequantize_linear(call: Call, x: Any, scale: Any = None, zero: Any = None) -> Any:
    if "scale" in call.attributes:
        return torch.ops.quantized_decomposed.dequantize_per_tensor.default(
            x, call["scale"], call["zero_point"], *_RANGE
        )
    return torch.ops.quantized_decomposed.dequantize_per_channel.default(
        x, scale, zero, call["axis"], *_RANGE
    )


@operator
def conv(call: Call, x: Any, kernel: Any, bias: Any = None) -> Any:
    rank = kernel.dim() - 2
    strides = call.get("strides", [1] * rank)
    dilations = call.get("dilations", [1] * rank)
    pads = call.get("pads", [0] * 2 * rank)
    before, after = pads[:rank], pads[rank:]
    if before != after:
        x = call.rounded(functional.pad(x, _torch_pads(before, after)))
        before = [0] * rank
    made = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    return made(x, kernel, bias, strides, before, dilations, call.get("group", 1))


def _torch_pads(before: Any, after: Any) -> list[int]:
    pairs = list(zip(before, after))[::-1]
    return [size for pair in pairs for size in pair]


@operator
def gemm(call: Call, x: Any, kernel: Any, bias: Any = None) -> Any:
    x = x.t() if call.get("transA", 0) else x
    if call.get("transB", 0):
        return functional.linear(x, kernel, bias)
    made = torch.matmul(x, kernel)
    return made if bias is None else made + bias


@operator
def max_pool(call: Call, x: Any) -> Any:
    return _pooled(call, x, (functional.max_pool1d, functional.max_pool2d), -np.inf)


@operator
def average_pool(call: Call, x: Any) -> Any:
    return _pooled(call, x, (functional.avg_pool1d, functional.avg_pool2d), None)


def _pooled(call: Call, x: Any, kinds: Any, filler: float | None) -> Any:
    rank = x.dim() - 2
    pads = call.get("pads", [0] * 2 * rank)
    size, strides = call["kernel_shape"], call.get("strides", [1] * rank)
    if any(pads):
        if filler is None:
            raise NotImplementedError("AveragePool with padding")
        x = functional.pad(x, _torch_pads(pads[:rank], pads[rank:]), value=filler)
    return kinds[rank - 1](x, size, strides)


@operator
def global_average_pool(call: Call, x: Any) -> Any:
    return torch.mean(x, list(range(2, x.dim())), keepdim=True)


@operator
def reduce_mean(call: Call, x: Any, axes: Any = None) -> Any:
    wanted = call.get("axes") or axes
    made = torch.mean(x, wanted, keepdim=True)
    if call.get("keepdims", 1):
        return made
    gone = {axis % x.dim() for axis in wanted}
    return torch.reshape(made, [n for i, n in enumerate(x.shape) if i not in gone])


@operator
def reshape(call: Call, x: Any, shape: Any) -> Any:
    sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return torch.reshape(x, sizes)


@operator
def clip(call: Call, x: Any) -> Any:
    return torch.clamp(x, call.get("min"), call.get("max"))


@operator
def unsqueeze(call: Call, x: Any, axes: Any = None) -> Any:
    wanted = axes or call["axes"]
    rank = x.dim() + len(wanted)
    for axis in sorted(axis % rank for axis in wanted):
        x = torch.unsqueeze(x, axis)
    return x


@operator
def split(call: Call, x: Any, sizes: Any = None) -> Any:
    axis = call.get("axis", 0)
    return torch.split(x, sizes or call["split"], axis)


@operator
def slice_(call: Call, x: Any, *numbers: Any) -> Any:
    starts, ends, *more = numbers
    axes = more[0] if more else range(len(starts))
    steps = more[1] if more[1:] else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps):
        size = x.shape[axis]
        at = slice(start, end, step).indices(size)
        if step < 0:
            chosen = torch.tensor(list(range(*at)))
            x = torch.index_select(x, axis, chosen)
        else:
            x = torch.ops.aten.slice.Tensor(x, axis, *at)
    return x


@operator
def gather(call: Call, x: Any, indices: Any) -> Any:
    axis = call.get("axis", 0)
    if isinstance(indices, list):
        if len(indices) == 1:  # one number is stored without an axis
            return torch.select(x, axis, indices[0])
        indices = torch.tensor(indices)
    flat = torch.index_select(x, axis, torch.reshape(indices, [-1]).long())
    shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]]
    return torch.reshape(flat, shape)


@operator
def cast(call: Call, x: Any) -> Any:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}
    return x.to(kinds[call["to"]])


@operator
def pad(call: Call, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    rank = x.dim()
    if call.get("mode", "constant") != "constant" or axes is not None:
        raise NotImplementedError("Pad of another mode than constant")
    filler = 0.0 if value is None else float(value)
    return functional.pad(x, _torch_pads(pads[:rank], pads[rank:]), value=filler)


@operator
def reduce_sum(call: Call, x: Any, axes: Any = None) -> Any:
    wanted = call.get("axes") or axes
    return torch.sum(x, wanted, keepdim=bool(call.get("keepdims", 1)))


@operator
def reduce_max(call: Call, x: Any, axes: Any = None) -> Any:
    wanted = call.get("axes") or axes
    return torch.amax(x, wanted, keepdim=bool(call.get("keepdims", 1)))


JOBS = {"lower": lower, "call": call}
