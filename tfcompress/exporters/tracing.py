"""From a Keras model to one traced function with stable names."""

import contextlib
import functools
import keyword
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.core.graph import is_graph_model, output_names
from tfcompress.core.inlining import as_it_was_built
from tfcompress.core.select import walk
from tfcompress.exporters.convertible import convertible_calls
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.quantization.fake_quantize import rounded_layer
from tfcompress.quantization.integers.sums import plain_arithmetic

# Of names of layers: TensorFlow's own rule for scopes at the root of a graph.
_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
_INPUT_NAME = re.compile(r"[A-Za-z0-9._/-]+")
_GENERATED_INPUT = re.compile(r"keras_tensor(_\d+)?|input_layer(_\d+)?|args_\d+")


@dataclass(frozen=True)
class TracedModel:
    """A model's inference graph and the variables it reads.

    Args:
        function: the concrete function; it returns a dict of named outputs.
        inputs: its arguments, in the model's own order.
        outputs: names and shapes of its results, in the model's own order.
        variables: each `tf.Variable` the graph reads, once.
        resources: lookup tables and the like that the graph reads.
        fake_quantized: whether the graph holds fake-quantization operators.
        model: what was traced.
    """

    function: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    variables: tuple[Any, ...]
    resources: tuple[Any, ...]
    fake_quantized: bool
    model: Any


def trace(
    model: keras.Model,
    batch_size: int | None = None,
    input_signature: Any = None,
    convertible: bool = False,
    exact: Collection[str] = (),
) -> TracedModel:
    """Traces the inference pass of `model`; the model stays as it was.

    Args:
        model: a built model.
        batch_size: size of the first axis of every input; None leaves it free.
        input_signature: the inputs as `tf.TensorSpec`, `keras.InputSpec`,
            `keras.Input` or arrays, in the structure `model` is called with; None
            takes them from the model.
        convertible: whether to trace what converters understand: in float32 what a
            mixed-precision model computes in 16 bits, and sums before they are
            rounded as integer kernels would.
        exact: which sums to round nevertheless, as of `plain_arithmetic`.

    Raises:
        InvalidArgumentError: if the model is not built or has unknown inputs.
        ExportError: if the model's `call` fails on symbolic inputs.
    """
    import tensorflow as tf

    structure = input_structure(model, input_signature)
    inputs = _describe_inputs(structure, batch_size)
    output_names: list[str] = []

    def serve(*tensors):
        given = keras.tree.pack_sequence_as(structure, tensors)
        outputs = model(given, training=False)
        named = _name_outputs(model, outputs)
        output_names[:] = named
        return named

    specs = [tf.TensorSpec(i.shape, i.dtype, name=i.name) for i in inputs]
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(convertible_calls(model, convertible))
            stack.enter_context(_own_scopes(model))
            if convertible:
                stack.enter_context(_full_precision(model))
                stack.enter_context(plain_arithmetic(exact))
            function = tf.function(serve, autograph=False).get_concrete_function(*specs)
    except InvalidArgumentError:
        raise
    except Exception as error:
        raise ExportError(
            f"Model {model.name!r} cannot be traced with these inputs.",
            received=f"{_short(specs)}: {str(error).strip().splitlines()[0]}",
            expected="a model whose `call` works on tensors of these shapes",
            fix="check `input_signature` and the model's `call`",
        ) from error
    outputs = function.structured_outputs
    variables, resources = _captured(model, function)
    return TracedModel(
        function=function,
        inputs=inputs,
        outputs=tuple(_describe(name, outputs[name]) for name in output_names),
        variables=variables,
        resources=resources,
        fake_quantized=_has_fake_quantization(function.graph.as_graph_def()),
        model=model,
    )


@contextlib.contextmanager
def _own_scopes(model: keras.Model) -> Iterator[None]:
    """Lets operators bear the paths of their layers for a while.

    Keras opens a scope twice, to build and to call, and TensorFlow calls the second
    one "dense_1". A scope that ends in a slash is entered as it is.
    """
    import tensorflow as tf

    def scoped(scope: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with tf.name_scope(scope):
            return call(*args, **kwargs)

    parts = [(model.name, model), *walk(model)]
    for path, _ in parts:
        if not _SCOPE.fullmatch(path):
            raise InvalidArgumentError(
                "TensorFlow has no scopes of this name, so neither Keras nor an export "
                "can trace the model.",
                received=repr(path),
                expected="letters, digits, '_', '-' and '.', no '_' in front",
                fix="name the model or layer otherwise",
            )
    before = [(layer, vars(layer).get("call")) for _, layer in parts]
    try:
        for path, layer in parts:
            layer.call = functools.partial(scoped, f"{path}/", layer.call)
        yield
    finally:
        for layer, call in before:
            del layer.call
            if call is not None:
                layer.call = call


@contextlib.contextmanager
def _full_precision(model: keras.Model) -> Iterator[None]:
    """Lets the layers of a mixed-precision model compute in float32 for a while."""
    mixed = [
        (layer, layer.dtype_policy)
        for layer in [model, *(inner for _, inner in walk(model))]
        if layer.compute_dtype in ("float16", "bfloat16")
        and layer.variable_dtype == "float32"
    ]
    try:
        for layer, _ in mixed:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in mixed:
            layer.dtype_policy = policy


def input_names(model: keras.Model) -> list[str]:
    """Returns the names the inputs of `model` get in an artifact."""
    return [i.name for i in _describe_inputs(input_structure(model, None), None)]


def first_input(model: keras.Sequential) -> Any:
    """Returns the input of a Sequential model; None if it does not know it."""
    try:
        return model.inputs[0] if model.built and model.inputs else None
    except AttributeError:  # a layer in it does not say what it puts out
        return None


def input_structure(model: keras.Model, signature: Any) -> Any:
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError(
            "Only a Keras model can be exported.",
            received=f"{type(model).__module__}.{type(model).__name__}",
            expected="a keras.Model (Keras 3)",
        )
    if signature is not None:
        one = isinstance(signature, (list, tuple)) and len(signature) == 1
        structure = signature[0] if one else signature
    elif isinstance(model, keras.Sequential):
        structure = first_input(model)
    else:
        # `model.input` keeps the dict or list that a Functional model is called with.
        structure = model.input if getattr(model, "inputs", None) else None
        if isinstance(structure, (list, tuple)) and len(structure) == 1:
            structure = structure[0]
        if structure is None and model.built and not _takes_no_floats(model):
            structure = as_it_was_built(model)
    if structure is None or (signature is None and not model.built):
        raise InvalidArgumentError(
            f"Model {model.name!r} does not say what its inputs look like.",
            received=f"an un-built or subclassed {type(model).__name__}",
            expected="a model with known input shapes",
            fix="start it with a `keras.Input`, or build it and pass "
            "`input_signature=[tf.TensorSpec((None, 28, 28, 1))]`",
        )
    if signature is not None and not model.built:
        raise InvalidArgumentError(
            f"Model {model.name!r} is not built: it has no weights to export yet.",
            received=f"an un-built {type(model).__name__}",
            expected="a built model",
            fix="call it once on data, or `model.build(input_shape)`",
        )
    return structure


def _takes_no_floats(model: keras.Model) -> bool:
    """Returns whether a layer of a model takes whole numbers or text.

    A subclassed model knows the shapes that it was called with, and not the types.
    """
    layers = keras.layers
    kinds = (
        *(layers.Embedding, layers.CategoryEncoding, layers.HashedCrossing),
        *(layers.Hashing, layers.IntegerLookup, layers.StringLookup),
        layers.TextVectorization,
    )
    return any(isinstance(layer, kinds) for _, layer in walk(model))


def _describe_inputs(structure: Any, batch_size: int | None) -> tuple[TensorInfo, ...]:
    paths = keras.tree.flatten_with_path(structure)
    infos: list[TensorInfo] = []
    for position, (path, leaf) in enumerate(paths):
        key = path[-1] if path and isinstance(path[-1], str) else None
        name = key or getattr(leaf, "name", None) or ""
        if not name or _GENERATED_INPUT.fullmatch(name):
            name = f"input_{position + 1}"
        # TensorFlow takes "a-b" and "a_b" for one name.
        while any(_word(name) == _word(other.name) for other in infos):
            name += "_1"
        if not _INPUT_NAME.fullmatch(name) or keyword.iskeyword(name):
            raise InvalidArgumentError(
                "TensorFlow has no inputs of this name.",
                received=repr(name),
                expected="letters, digits, '_', '-' and '.', and no word of Python",
                fix="name the model's `keras.Input` otherwise",
            )
        described = _describe(name, leaf)
        shape = described.shape
        if shape and shape[0] is None:
            shape = (batch_size, *shape[1:])
        infos.append(TensorInfo(name, shape, described.dtype))
    return tuple(infos)


def _word(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _describe(name: str, leaf: Any) -> TensorInfo:
    shape = getattr(leaf, "shape", None)
    if shape is None or (hasattr(shape, "rank") and shape.rank is None):
        raise InvalidArgumentError(
            f"Tensor {name!r} has no known number of axes.",
            received=repr(leaf),
            expected="a tf.TensorSpec, keras.InputSpec, keras.Input or array",
        )
    dtype = getattr(leaf, "dtype", None) or "float32"
    dtype = getattr(dtype, "name", None) or keras.backend.standardize_dtype(dtype)
    return TensorInfo(name, tuple(None if d is None else int(d) for d in shape), dtype)


def tensor_names(model: keras.Model) -> tuple[list[str], list[str]]:
    """Returns what inputs and outputs of a graph model are called in an artifact."""
    sequential = isinstance(model, keras.Sequential)
    outputs = model.outputs if sequential else model.output
    return input_names(model), list(_name_outputs(model, outputs))


def _name_outputs(model: keras.Model, outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, dict):
        leaves = keras.tree.flatten_with_path(outputs)
        return {"_".join(map(str, path)): value for path, value in leaves}
    values = keras.tree.flatten(outputs)
    if len(values) == 1:
        return {_own_output_names(model)[0] or "output": values[0]}
    names = _own_output_names(model)
    if (
        len(set(names)) < len(values)
        or None in names
        or {*names} & {*input_names(model)}
    ):
        return {f"output_{place}": value for place, value in enumerate(values)}
    return {str(name): value for name, value in zip(names, values)}


def _own_output_names(model: keras.Model) -> list[str | None]:
    """Returns the names of the last layers; None of those that the user did not name.

    A generated name ("dense_7") depends on what else the process has built, so it
    would change from one version of a served model to the next.
    """
    if not is_graph_model(model):
        return [None]
    types = set(map(str.lower, dir(keras.layers)))
    names: list[str | None] = []
    for last in output_names(model):
        layer = next((one for one in model.layers if one.name == last), None)
        if isinstance(layer, keras.Model):
            names += _own_output_names(layer)
            continue
        # A quantized student keeps the output name of its float teacher: its last
        # layer, a rounding, is named after it.
        name = rounded_layer(last)
        stripped = re.sub(r"_\d+$", "", name).replace("_", "")
        generated = stripped in {type(layer).__name__.lower(), *types}
        names.append(None if generated else name)
    return names


def _captured(model: keras.Model, function: Any) -> tuple[tuple, tuple]:
    import tensorflow as tf

    # In the order of the graph, so that two exports give the same file.
    handles = [id(captured) for captured, _ in function.graph.captures]
    order = {handle: position for position, handle in enumerate(handles)}
    variables = sorted(
        function.variables, key=lambda v: order.get(id(v.handle), len(order))
    )
    known = {id(variable.handle) for variable in variables}
    if all(handle in known for handle in handles):
        return tuple(variables), ()
    kind = tf.saved_model.experimental.TrackableResource
    resources = [
        value
        for layer in [model, *(inner for _, inner in walk(model))]
        for value in vars(layer).values()
        # A table that was read to be compared with is no part of the graph.
        if isinstance(value, kind) and id(value.resource_handle) in order
    ]
    return tuple(variables), tuple(resources)


def _has_fake_quantization(graph: Any) -> bool:
    bodies: Sequence[Any] = [graph.node, *(f.node_def for f in graph.library.function)]
    return any(node.op.startswith("FakeQuant") for body in bodies for node in body)


def _short(specs: Sequence[Any]) -> str:
    return ", ".join(f"{spec.name}: {spec.shape} {spec.dtype.name}" for spec in specs)
