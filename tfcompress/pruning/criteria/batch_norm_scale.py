"""BatchNorm scale: channels that normalization turns down go first."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.errors import UnsupportedLayerError
from tfcompress.pruning.criteria.base import CRITERIA, Criterion
from tfcompress.pruning.criteria.magnitude import Magnitude


@CRITERIA.register("batch_norm_scale", "batch_norm")
class BatchNormScale(Criterion):
    """Keeps the channels that the BatchNormalization after them scales up.

    When to use: with `pattern="channel"`, for convolutions that are followed by a
    BatchNormalization; most effective when its `gamma_regularizer` is an L1 penalty.

    `"batch_norm"` is another name of it. `shrink` and `PruneChannels` add up the scales
    of what channels go through, and rank those without any by size.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming", 2017. The score of every weight of output channel `c` is `|gamma[c]|`.

    Raises:
        UnsupportedLayerError: when a fit begins, if a kernel has no
            BatchNormalization with a scale after it; leave its layer out with
            `filters`.

    Example:

    >>> import keras
    >>> from tfcompress.pruning.sites import select_sites
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3),
    ...                           keras.layers.BatchNormalization()])
    >>> _ = model.layers[1].gamma.assign([1.0, -2.0, 0.5])
    >>> site, = select_sites(model)
    >>> BatchNormScale().for_site(site).score(site.variable).numpy().tolist()
    [[1.0, 2.0, 0.5], [1.0, 2.0, 0.5]]
    """

    needs = "batch_norm"

    def build(self, site: Any) -> None:
        layer = site.batch_norm()
        if layer is None or layer.gamma is None:
            raise UnsupportedLayerError(
                f"BatchNormScale cannot rank the channels of layer '{site.path}'.",
                received=f"a {type(site.layer).__name__} whose output is not read by "
                "one BatchNormalization with scale=True alone",
                expected="a layer directly followed by a BatchNormalization",
                fix="leave the layer out with `filters`, or use another criterion",
            )
        self._gamma = layer.gamma
        rank = len(site.variable.shape)
        kept = {axis % rank for axis in site.kernel.output_axes}
        self._shape = tuple(
            size if axis in kept else 1 for axis, size in enumerate(site.variable.shape)
        )

    def score(self, weights: Any) -> Any:
        channels = ops.reshape(ops.abs(self._gamma), self._shape)
        return ops.broadcast_to(channels, weights.shape)

    def scores_of(self, variable: keras.Variable) -> np.ndarray:
        return Magnitude().scores_of(variable)
