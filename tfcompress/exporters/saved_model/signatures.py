"""Signatures of a SavedModel beside `serving_default`: images in, labels out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfcompress.core.arguments import integer
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.tracing import TracedModel

IMAGES, CLASSIFY = "images", "classify"


@dataclass(frozen=True)
class ServingSignatures:
    """What a server does around a model, so that clients need not.

    Use it as the option `signatures` of the format "saved_model".

    - With `labels` there is a signature "classify": inputs as for the model, outputs
      `labels` (text, `[n, top]`, best first) and `probabilities` (`[n, top]`).
    - With `image_scale` there is a signature "images": input `image_bytes` (encoded
      PNG, JPEG, BMP or GIF files, `[n]`); they are decoded, resized bilinearly to the
      model's input and become `scale * pixel + offset`. Its outputs are those of
      "classify", or the model's own without labels.

    Args:
        labels: the names of the classes, in the order of the model's output.
        top: how many of them to return.
        from_logits: whether the model's output still needs a softmax.
        image_scale: factor of pixels from 0 to 255; 1/255 for a model of [0, 1].
        image_offset: added after the factor.

    Example:

    >>> ServingSignatures(labels=("cat", "dog"), image_scale=1 / 255).top
    5
    """

    labels: tuple[str, ...] = ()
    top: int = 5
    from_logits: bool = True
    image_scale: float | None = None
    image_offset: float = 0.0

    def functions(self, traced: TracedModel) -> dict[str, Any]:
        """Returns the concrete functions by name of signature.

        Raises:
            InvalidArgumentError: if the model has other inputs or outputs.
        """
        import tensorflow as tf

        self._check(traced)
        functions = {}
        specs = [tf.TensorSpec(i.shape, i.dtype, name=i.name) for i in traced.inputs]

        def classify(*tensors):
            return self._classified(traced.function(*tensors))

        if self.labels:
            function = tf.function(classify, autograph=False)
            functions[CLASSIFY] = function.get_concrete_function(*specs)
        if self.image_scale is not None:
            batch = traced.inputs[0].shape[0]

            def images(image_bytes):
                outputs = traced.function(self._decoded(image_bytes, traced))
                return self._classified(outputs) if self.labels else outputs

            spec = tf.TensorSpec((batch,), "string", name="image_bytes")
            function = tf.function(images, autograph=False)
            functions[IMAGES] = function.get_concrete_function(spec)
        return functions

    def _classified(self, outputs: dict[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        (scores,) = outputs.values()
        scores = tf.nn.softmax(scores) if self.from_logits else scores
        best = tf.math.top_k(scores, k=min(self.top, len(self.labels)))
        names = tf.gather(tf.constant(self.labels), best.indices)
        return {"labels": names, "probabilities": best.values}

    def _decoded(self, contents: Any, traced: TracedModel) -> Any:
        import tensorflow as tf

        info = traced.inputs[0]
        _, height, width, channels = info.shape

        def one(content):
            image = tf.io.decode_image(content, channels, expand_animations=False)
            image = tf.image.resize(tf.cast(image, "float32"), (height, width))
            return tf.ensure_shape(image, (height, width, channels))

        spec = tf.TensorSpec((height, width, channels), "float32")
        pixels = tf.map_fn(one, contents, fn_output_signature=spec)
        scaled = pixels * self.image_scale + self.image_offset
        return tf.cast(scaled, info.dtype)

    def _check(self, traced: TracedModel) -> None:
        outputs = [(o.name, o.shape) for o in traced.outputs]
        one = len(outputs) == 1 and len(outputs[0][1]) == 2
        if self.labels and (not one or outputs[0][1][1] != len(self.labels)):
            raise InvalidArgumentError(
                "The labels do not fit the model's output.",
                received=f"{len(self.labels)} labels, outputs {outputs}",
                expected="one output with a score for each label",
            )
        integer(self.top, "Bad `top`.", low=1)
        shapes = [info.shape for info in traced.inputs]
        image = len(shapes) == 1 and len(shapes[0]) == 4 and None not in shapes[0][1:]
        if self.image_scale is not None and not image:
            raise InvalidArgumentError(
                "The model does not take images.",
                received=f"inputs of shapes {shapes}",
                expected="one input of shape (n, height, width, channels)",
                fix="leave out `image_scale`",
            )
