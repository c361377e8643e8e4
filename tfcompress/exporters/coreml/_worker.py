"""Jobs of the child process for the "coreml" format."""

import functools
import logging
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

_WEIGHTS = "Data/com.apple.CoreML/weights"
_FAKE_QUANTIZE = "FakeQuantWithMinMaxVars"
_MOVES = {"identity", "expand_dims", "reshape", "squeeze", "transpose"}
# What TensorFlow calls the one function of a SavedModel.
_CALL = "StatefulPartitionedCall/"
# Before and after a weight is written and read: nothing may be lost on the way.
_PASS = "tfcompress::store_weights"
_STORED: dict[str, Any] = {}
_GROUPED = [True]


@functools.cache
def _beside(name: str) -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).with_name(name)))


@functools.cache
def _coremltools() -> Any:
    """Imports coremltools, and teaches it what it does not do by itself."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools
    from coremltools.converters.mil.frontend.tensorflow.tf_op_registry import (
        register_tf_op,
    )
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import register_pass

    otherwise = _known(_FAKE_QUANTIZE)

    @register_tf_op(tf_alias=[_FAKE_QUANTIZE], override=True)
    def tfcompress_rounded(context: Any, node: Any) -> None:
        _rounded(otherwise, context, node)

    @register_tf_op(override=True)
    def Erfc(context: Any, node: Any) -> None:
        # A part of `gelu`.
        erf = coremltools.converters.mil.Builder.erf(x=context[node.inputs[0]])
        one = np.float32(1)
        made = coremltools.converters.mil.Builder.sub(x=one, y=erf, name=node.name)
        context.add(node.name, made)

    @register_pass(namespace="tfcompress")
    class store_weights(AbstractGraphPass):
        def apply(self, prog: Any) -> None:
            _name_after_layers(prog)
            stored = _beside("_stored.py")["store_weights"](prog, _GROUPED[0])
            _STORED.update(stored)

    return coremltools


def _known(operation: str) -> Any:
    from coremltools.converters.mil.frontend.tensorflow import ops  # noqa: F401
    from coremltools.converters.mil.frontend.tensorflow.tf_op_registry import (
        _TF_OPS_REGISTRY,
    )

    return _TF_OPS_REGISTRY[operation]


def _name_after_layers(program: Any) -> None:
    """Strips the calls of the function that is the model from all names."""
    operators = _operators(program)
    taken = {variable.name for one in operators for variable in one.outputs}
    for operator in operators:
        for variable in operator.outputs:
            name = variable.name.replace(_CALL, "")
            if name not in taken and "/" in name:
                taken.add(name)
                variable.name = name
        if len(operator.outputs) == 1:
            operator.name = operator.outputs[0].name


def _rounded(otherwise: Any, context: Any, node: Any) -> None:
    """Writes a range of 8 bits as `quantize` and `dequantize`, others as floats."""
    from coremltools.converters.mil import Builder

    x, low, high = (context[name] for name in node.inputs)
    if node.attr["num_bits"] != 8 or node.attr["narrow_range"]:
        otherwise(context, node)
        return
    scale = np.float32((float(high.val) - float(low.val)) / 255)
    zero_point = np.int8(np.clip(round(-float(low.val) / float(scale)), 0, 255) - 128)
    integers = Builder.quantize(
        input=x, scale=scale, zero_point=zero_point, output_dtype="int8"
    )
    context.add(
        node.name,
        Builder.dequantize(
            input=integers, scale=scale, zero_point=zero_point, name=node.name
        ),
    )


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Converts the SavedModel `saved_model` to the package `output`.

    Returns how many weights were stored in a form of their own. Each was read back from
    the package, decompressed by coremltools, and was what it had been.
    """
    import tensorflow as tf

    ct = _coremltools()
    loaded = tf.saved_model.load(job["saved_model"])  # which holds the variables
    served = loaded.signatures["serving_default"]
    names = job["outputs"]

    def call(*tensors: Any) -> list[Any]:
        made = served(**dict(zip(job["inputs"], tensors)))
        return [tf.identity(made[name]) for name in names]

    described = served.structured_input_signature[1]
    specs = [
        tf.TensorSpec(described[n].shape, described[n].dtype, n) for n in job["inputs"]
    ]
    function = tf.function(call, autograph=False).get_concrete_function(*specs)
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.append_pass(_PASS)
    target = getattr(ct.target, job["target"])
    _GROUPED[0] = target >= ct.target.iOS18
    _STORED.clear()
    half = ct.precision.FLOAT16 if job["float16"] else ct.precision.FLOAT32
    ends = [(t.op.name, t.dtype.as_numpy_dtype) for t in function.outputs]
    model = ct.convert(
        [function],
        source="tensorflow",
        convert_to="mlprogram",
        inputs=[
            ct.TensorType(spec.name, tuple(spec.shape), spec.dtype.as_numpy_dtype)
            for spec in specs
        ],
        outputs=[ct.TensorType(name, dtype=kind) for name, kind in ends],
        minimum_deployment_target=target,
        compute_precision=half,
        pass_pipeline=pipeline,
        skip_model_load=True,
    )
    specification = model.get_spec()
    # Names that are free while the ports change places.
    for place, (end, _) in enumerate(ends):
        ct.utils.rename_feature(specification, end, f"tfcompress_{place}")
    for place, name in enumerate(names):
        ct.utils.rename_feature(specification, f"tfcompress_{place}", name)
    ct.models.MLModel(
        specification, weights_dir=model.weights_dir, skip_model_load=True
    ).save(job["output"])
    _check_stored(job["output"], dict(_STORED))
    return {"stored": len(_STORED)}


def _check_stored(package: str, wanted: dict[str, Any]) -> None:
    """Raises if a weight of the package is not what it was before it was stored."""
    found = {
        variable.name: operator
        for operator in _operators(_program(package))
        for variable in operator.outputs
    }
    for name, stored in wanted.items():
        if name not in found or not stored.equals(
            found[name].materialized_val_inference()
        ):
            raise RuntimeError(f"the weight {name!r} is read back as other numbers")


def _program(package: str) -> Any:
    ct = _coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load

    specification = ct.utils.load_spec(package)
    weights = str(Path(package) / _WEIGHTS)
    return load(specification, specification.specificationVersion, weights)


def _operators(program: Any) -> list[Any]:
    return [op for f in program.functions.values() for op in f.operations]


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Describes the package at `path`, and evaluates it on its samples."""
    program = _program(job["path"])
    evaluation = _beside("_evaluation.py")
    if "samples" in job:

        def call(batch: dict) -> list:
            outputs = evaluation["evaluate"](program, batch)
            return [outputs[name] for name in job["names"][1]]

        job["answer"](call)
    main = program.functions["main"]
    counts: Counter = Counter()
    for operator in _operators(program):
        if operator.op_type != "const":
            constants = {
                _dtype(value)
                for value in operator.inputs.values()
                if not isinstance(value, list | tuple)
                and value is not None
                and value.op is not None
                and (value.op.op_type == "const" and value.rank)
            }
            counts[operator.op_type, tuple(sorted(constants))] += 1
    return {
        "inputs": [_described(variable) for variable in main.inputs.values()],
        "outputs": [{**_described(v), "step": _step(v)} for v in main.outputs],
        "operators": [[*key, count] for key, count in sorted(counts.items())],
    }


def _described(variable: Any) -> dict[str, Any]:
    shape = [int(n) for n in variable.shape]
    return {"name": variable.name, "shape": shape, "dtype": _dtype(variable)}


def _dtype(variable: Any) -> str:
    from coremltools.converters.mil.mil import types

    name = types.builtin_to_string(variable.dtype)
    return {"fp32": "float32", "fp16": "float16"}.get(name, name)


def _step(variable: Any) -> float | None:
    """Returns the distance between two values of an output that was rounded last."""
    operator = variable.op
    while operator is not None and operator.op_type in (*_MOVES, "cast"):
        operator = operator.x.op
    if operator is None or operator.op_type != "dequantize":
        return None
    return float(operator.scale.val) if np.ndim(operator.scale.val) == 0 else None


def weights(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the weights of the package at `path`, decompressed by coremltools."""
    arrays = {}
    for operator in _operators(_program(job["path"])):
        if operator.op_type == "const" and isinstance(
            operator.outputs[0].val, np.ndarray
        ):
            arrays[operator.outputs[0].name] = operator.outputs[0].val
        elif operator.op_type.startswith("constexpr_") and len(operator.outputs) == 1:
            arrays[operator.outputs[0].name] = operator.materialized_val_inference()
    return {"arrays": arrays}


JOBS = {"convert": convert, "open": probe, "probe": probe, "weights": weights}
