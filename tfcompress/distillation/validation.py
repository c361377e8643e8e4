"""Checks that a teacher and a student can be distilled, before training starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import number
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.losses import LOSSES, ForOutput
from tfcompress.distillation.weighting import Schedule
from tfcompress.layers import rule_of

_PROBABILITIES = ("softmax", "sigmoid")


def as_lists(losses: Any, weights: Any) -> tuple[list[Any], Any]:
    """Returns losses given one by one, in a list or by output, and their weights."""
    if isinstance(losses, dict) and "class_name" not in losses:
        if isinstance(weights, dict) and set(weights) == set(losses):
            weights = [weights[output] for output in losses]
        losses = [ForOutput(output, loss) for output, loss in losses.items()]
    one = isinstance(losses, str) or not isinstance(losses, Sequence)
    flat = [losses] if one else list(losses)
    if not flat or None in flat:
        raise InvalidArgumentError(
            "There is nothing to distil with.",
            received=f"distillation_losses={losses!r}",
            expected="a distillation loss or a list of them",
        )
    return [LOSSES.get(loss) for loss in flat], weights


def check_weights(weights: Any, losses: list[Any]) -> list[Any]:
    """Returns the weights of distillation losses."""
    if weights is None:
        return [getattr(loss, "default_weight", 1.0) for loss in losses]
    count = len(losses)
    flat = list(weights) if isinstance(weights, Sequence) else [weights]
    problem = "Wrong distillation_loss_weights."
    expected = f"{count} finite numbers >= 0, one for each distillation loss"
    if len(flat) != count:
        raise InvalidArgumentError(problem, received=repr(weights), expected=expected)
    return [
        w if isinstance(w, Schedule) else number(w, problem, "[0, inf)", expected)
        for w in flat
    ]


def check_share(share: Any) -> Any:
    """Returns the weight of the student's own loss: a number or a schedule."""
    if isinstance(share, Schedule):
        return share
    return number(share, "Wrong student_loss_weight.", "[0, 1]", "in [0, 1]")


def refuse_no_labels(compiled: bool, share: Any) -> None:
    """Raises because the student has a loss of its own and nothing to compute it."""
    raise InvalidArgumentError(
        "The student's loss cannot be computed without "
        + ("labels." if compiled else "a compiled loss."),
        received=f"student_loss_weight={share}",
        expected="labels `y` in fit and a `loss` in compile",
        fix="pass them, or learn from the teacher alone: student_loss_weight=0",
    )


def refuse_no_teacher(loss: Any) -> None:
    """Raises because a loss needs a teacher and there is none."""
    raise InvalidArgumentError(
        f"{type(loss).__name__} needs a teacher.",
        received="teacher=None",
        expected="a trained model, or only losses such as DeepSupervision, which the "
        "student's own output teaches",
    )


def saveable(loss: Any) -> Any:
    """Returns `loss`, or raises if it could not be loaded from a file again."""
    for method in ("get_config", "from_config"):
        if not hasattr(loss, method):
            raise InvalidArgumentError(
                f"{type(loss).__name__} cannot be saved with the distiller.",
                received=f"a distillation loss without {method}()",
                expected="get_config(), and from_config() as a class method",
                fix="add them and register the class with "
                "keras.saving.register_keras_serializable()",
            )
    return loss


def check_models(teacher: Any, student: Any) -> None:
    """Raises unless these are two models that share no weights."""
    if not isinstance(student, keras.Model):
        raise InvalidArgumentError(
            "The student is not a Keras model.",
            received=type(student).__name__,
            expected="a keras.Model",
        )
    if teacher is None:
        return
    check_is_model(teacher)
    if not teacher.built:
        raise InvalidArgumentError(
            f"Teacher '{teacher.name}' has not been built, so it knows nothing.",
            expected="a trained model",
            fix="train it, or load its weights, before distilling from it",
        )
    own = {id(variable) for variable in student.trainable_variables}
    shared = [v.path for v in teacher.variables if id(v) in own]
    if shared:
        raise InvalidArgumentError(
            "Teacher and student share weights, so training the student would "
            "change the teacher.",
            received=", ".join(shared[:4]),
            expected="models with weights of their own",
            fix="copy the teacher: teacher_copy = keras.models.clone_model(teacher); "
            "teacher_copy.set_weights(teacher.get_weights())",
        )


def check_teacher_is_finite(teacher: keras.Layer) -> None:
    """Raises if a weight of the teacher is NaN or infinite."""
    for variable in [] if teacher is None else teacher.variables:
        if "float" in keras.backend.standardize_dtype(variable.dtype) and not bool(
            ops.all(ops.isfinite(variable))
        ):
            raise InvalidArgumentError(
                f"Teacher '{teacher.name}' has weights that are NaN or infinite.",
                received=variable.path,
                expected="finite weights",
                fix="load the weights of a teacher whose training did not diverge",
            )


def check_is_model(teacher: Any) -> None:
    """Raises unless a teacher is a layer or a model."""
    if not isinstance(teacher, keras.Layer):
        raise InvalidArgumentError(
            "The teacher is not a Keras model.",
            received=type(teacher).__name__,
            expected="a keras.Model or a keras.Layer",
        )


def check_cached(said_by: str, teacher: Any, fingerprint: str) -> None:
    """Raises if another teacher than the distiller's answered what was cached."""
    if said_by == fingerprint:
        return
    raise InvalidArgumentError(
        "The data carries the outputs of another teacher than the distiller has.",
        received=f"teacher '{getattr(teacher, 'name', type(teacher).__name__)}', and "
        "outputs of one with other weights",
        expected="a data set that `cache_teacher` made with this teacher",
        fix="cache this teacher's outputs, or give the distiller the teacher that "
        "was cached",
    )


def check_inputs(teacher: Any, student: Any) -> None:
    """Raises if both models' input shapes are known and differ."""
    theirs, ours = (_specs(model, "inputs") for model in (teacher, student))
    if theirs is None or ours is None:
        return
    if len(theirs) != len(ours) or any(
        not _compatible(theirs[name], ours[name])
        if set(theirs) == set(ours)
        else not _compatible(t, s)
        for (name, t), s in zip(theirs.items(), ours.values())
    ):
        raise InvalidArgumentError(
            "Teacher and student take different inputs.",
            received=f"teacher {theirs}, student {ours}",
            expected="equal shapes",
            fix="pass teacher_preprocessing, a layer or function that turns the "
            "student's input into the teacher's, e.g. keras.layers.Resizing",
        )


def check_outputs(teacher: Any, student: Any, loss: Any) -> None:
    """Raises if outputs that `loss` compares cannot be compared."""
    theirs, ours = output_of(teacher), output_of(student)
    if theirs is None or ours is None:
        return
    name = type(loss).__name__
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = sorted(theirs), sorted(ours)
    else:
        names = _output_names(teacher), _output_names(student)
        if sorted(names[0]) != sorted(names[1]):
            names = [], []  # lists are matched by position, names are free
    if names[0] != names[1] or isinstance(theirs, dict) != isinstance(ours, dict):
        raise InvalidArgumentError(
            f"{name} cannot match the teacher's outputs with the student's.",
            received=f"teacher {_describe(teacher)}, student {_describe(student)}",
            expected="outputs with equal names in equal order",
            fix="rebuild one of them: keras.Model(inputs, {name: output, ...})",
        )
    flat = keras.tree.flatten(theirs), keras.tree.flatten(ours)
    losses = getattr(loss, "loss", None)
    used = [True] * len(flat[0])
    if keras.tree.is_nested(losses):
        used = [one is not None for one in keras.tree.flatten(losses)]
    if not len(flat[0]) == len(flat[1]) == len(used) or any(
        use and not _compatible(t.shape, s.shape) for use, t, s in zip(used, *flat)
    ):
        raise InvalidArgumentError(
            f"{name} compares outputs, and teacher and student have different ones.",
            received=f"teacher {_describe(teacher)}, student {_describe(student)}",
            expected="equal shapes: the same classes, in the same order",
            fix="give the student's last layer as many units as the teacher has "
            "classes, or distil features of layers instead of outputs",
        )


def check_logits(model: Any, role: str, loss: Any) -> None:
    """Raises if `model` ends in probabilities where `loss` needs logits."""
    for one in getattr(model, "teachers", None) or [model]:
        _check_logits_of(one, role, loss)


def _check_logits_of(model: Any, role: str, loss: Any) -> None:
    if output_of(model) is None and _answers_with_probabilities(model):
        raise InvalidArgumentError(
            f"{type(loss).__name__} compares logits, but the {role} '{model.name}' "
            "answers with probabilities.",
            received="outputs >= 0 that sum to 1 for random inputs",
            expected="logits: a last layer without activation",
            fix="let it return what goes into its softmax, or use "
            "SoftLabels(from_probabilities=True) if the other model has one too",
        )
    for layer, function in _final_activations(model):
        raise InvalidArgumentError(
            f"{type(loss).__name__} compares logits, but the {role} '{model.name}' "
            f"ends in {function}.",
            received=f"layer '{layer.name}' with activation {function}",
            expected="logits: a last layer without activation",
            fix=f"set {role}.get_layer('{layer.name}').activation = "
            "keras.activations.linear (the weights stay as they are) or drop the "
            f"{function} layer, and compile losses with from_logits=True",
        )


def _answers_with_probabilities(model: Any) -> bool:
    """Asks a model whose layers cannot be followed, if its input shape is known."""
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if not shape or not all(isinstance(size, int) for size in shape[1:]):
        return False
    x = np.random.default_rng(0).uniform(size=(4, *shape[1:])).astype("float32")
    try:
        answers = keras.tree.flatten(model(x, training=False))
    except Exception:  # it wants other numbers than these, which is its right
        return False
    arrays = [ops.convert_to_numpy(ops.cast(a, "float32")) for a in answers]
    return any(
        array.ndim > 1
        and array.shape[-1] > 1
        and bool((array >= 0).all())
        and bool(np.allclose(array.sum(-1), 1.0, atol=0.02))
        for array in arrays
    )


def _final_activations(model: Any) -> Iterator[tuple[keras.Layer, str]]:
    for output in keras.tree.flatten(output_of(model)):
        if output is None:
            return  # a subclassed model: its layers' order is not known
        layer = _producer(model, output)
        while layer is not None and _hands_on(layer):
            layer = _producer(model, layer.input)
        if isinstance(layer, keras.Model):
            yield from _final_activations(layer)
        elif _activation(layer) in _PROBABILITIES:
            yield layer, _activation(layer)


def _hands_on(layer: Any) -> bool:
    """Returns whether a softmax before a layer is still the one the model ends in."""
    if isinstance(layer, keras.layers.Activation):
        return _activation(layer) == "linear"  # often there to cast to float32
    rule = rule_of(layer)
    return rule is not None and (rule.training_only or rule.channels == "reshape")


def _activation(layer: Any) -> str:
    layer = getattr(layer, "layer", layer)  # of a wrapper, the layer inside
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _producer(model: Any, tensor: Any) -> keras.Layer | None:
    for layer in reversed(model.layers):
        try:
            if any(tensor is out for out in keras.tree.flatten(layer.output)):
                return layer
        except (AttributeError, ValueError):
            continue  # called more than once, or never
    # A nested model's `output` belongs to its own graph: it is known by its shape.
    for layer in reversed(model.layers):
        shapes = [
            o.shape for o in keras.tree.flatten(output_of(layer)) if o is not None
        ]
        if isinstance(layer, keras.Model) and tensor.shape in shapes:
            return layer
    return None


def output_of(model: Any) -> Any:
    """Returns a model's symbolic outputs, or `None` if it has none."""
    if isinstance(model, keras.Sequential):
        return (getattr(model, "outputs", None) or [None])[0]
    return getattr(model, "output", None)


def _specs(model: Any, attribute: str) -> dict[str, tuple] | None:
    tensors = getattr(model, attribute, None)
    return {t.name: tuple(t.shape) for t in tensors} if tensors else None


def _compatible(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(
        None in (a, b) or a == b for a, b in zip(one, other)
    )


def _output_names(model: Any) -> list[str]:
    return list(getattr(model, "output_names", None) or [])


def _describe(model: Any) -> str:
    output = output_of(model)
    if isinstance(output, dict):
        return str({name: tuple(t.shape) for name, t in output.items()})
    names = _output_names(model) or ["output"]
    shapes = [tuple(t.shape) for t in keras.tree.flatten(output)]
    return ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes))
