"""ClusterWeights: layers whose weights share a few values, trained together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.clustering.codebooks import Codebook, SharedTraining, is_projected
from tfcompress.clustering.moments import calls_of
from tfcompress.clustering.starts import STARTS
from tfcompress.core.arguments import integer, one_of
from tfcompress.core.callback import FitCallback, Left, Restored
from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.core.gradient_tap import innermost
from tfcompress.core.select import Filters, exclude, select, walk
from tfcompress.layers import kernels_of
from tfcompress.layers.lora import leave_out_lora, lora_variables
from tfcompress.schedules import checked_step

_SCOPES = ("layer", "global")
_KEEP, _MOST = "keep", 256
_MEMBERS = ("fixed", "trained")


class ClusterWeights(FitCallback):
    """Ties the weights of a kernel to a few shared values, inside the training step.

    When to use: add it to `model.fit(callbacks=[...])` (or a `Distiller`'s) of a
    trained model, to store weights as indices into a short list of values: 16 values
    take 4 bits per weight before any entropy coding (`pack`). It composes with
    `PruneWeights` and with `quantize_aware`.

    Source: Han et al., "Deep Compression", 2016, section 3. At `begin_step` the values
    are found by k-means; from then on each weight stays with its value, and a value
    moves with the mean gradient of its members, by the rule of the model's optimizer.
    Zeros stay zero and are one of the values.

    A resumed run finds values and members in the weights, and the moments of values in
    those of their members; with trained members, moments start anew.

    Args:
        num_clusters: how many distinct values a kernel may have, zero included; at
            least 2. Or a dict from filter to number, of which the first that matches a
            layer counts. "keep" keeps the values of kernels that have at most 256 of
            them, and leaves other kernels alone.
        initialization: where k-means starts: `"kmeans++"`, `"linear"` (equal
            distances from smallest to largest, which is best in the paper),
            `"density"` (equal steps of the distribution) or `"quantile"` (medians of
            equally large groups).
        scope: `"layer"` gives every kernel its own values, `"global"` shares them
            between all kernels with the same entry in `num_clusters`.
        members: which value a weight belongs to: `"fixed"`, always the one it started
            with, as in the paper, or `"trained"`, the one nearest to what the weight
            would be by now if it shared nothing. The latter loses less accuracy where
            there are few values; it takes 16 bytes more per weight and a longer step.
        begin_step: the step at which weights are tied; an int counts the optimizer's
            steps, a float is a fraction of the fit in [0, 1].
        filters: which layers: a regular expression on the layer's path, a layer
            class, a predicate, or a list of these. `None` means all.
        verbose: 1 prints what is shared when sharing begins.

    Raises:
        InvalidArgumentError: for an argument out of range; in fit, if `filters` match
            nothing, a kernel has fewer weights than clusters, only zeros or NaN, or
            the fit ends before `begin_step`.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((64, 8)), np.ones((64, 16))
    >>> share = ClusterWeights(4, verbose=1)
    >>> _ = model.fit(x, y, verbose=0, callbacks=[share])
    ClusterWeights: 1 kernel, 128 weights; 4 values at step 0.
    >>> len(np.unique(model.layers[0].kernel.numpy()))
    4
    """

    def __init__(
        self,
        num_clusters: int | str | Mapping[Any, int | str] = 16,
        initialization: str = "kmeans++",
        scope: str = "layer",
        members: str = "fixed",
        begin_step: int | float = 0,
        filters: Filters = None,
        verbose: int = 0,
    ):
        super().__init__()
        rules = dict(num_clusters) if isinstance(num_clusters, Mapping) else None
        for number in [num_clusters] if rules is None else rules.values():
            if number != _KEEP:
                _check_number(number)
        one_of(initialization, "Unknown `initialization`.", STARTS)
        one_of(scope, "Unknown `scope`.", _SCOPES)
        one_of(members, "Unknown `members`.", _MEMBERS)
        checked_step("begin_step", begin_step)
        self.num_clusters = num_clusters
        self.initialization = initialization
        self.scope = scope
        self.members = members
        self.begin_step = begin_step
        self.filters = filters
        self.verbose = verbose
        self._training: SharedTraining | None = None
        self._begin: int | None = None

    def start(self, epoch: int) -> None:
        self._training = None
        leave_out_lora(self.model, self.filters, "clustered")
        self._groups()  # what is wrong with the arguments shows before the first step
        self._begin = self._first_step(epoch)
        self._tied_at = self._tying_iteration(epoch, self._begin)
        self._begin_if_due()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self._begin is not None and self._begin_if_due():
            self.retrace()

    def stop(self) -> None:
        restored, books = self.restored(), self._books()
        if restored is not None:
            self._warn_if_missed(books, restored)
        for book in books if restored is None else ():
            # An optimizer that averages weights writes the average at the end.
            if not book.is_shared():
                book.gather()
        self.release()

    def is_final(self) -> bool:
        return self._training is not None

    def left(self) -> Left:
        variables = [k.variable for book in self._books() for k in book.kernels]
        keep = "ClusterWeights('keep')"
        return Left("ClusterWeights", "the shared values", keep, variables)

    def _books(self) -> list[Codebook]:
        return [] if self._training is None else self._training.codebooks

    def _warn_if_missed(self, books: list[Codebook], restored: Restored) -> None:
        most = 0
        for book in books:
            found = [restored.values.get(id(k.variable)) for k in book.kernels]
            values = [v.reshape(-1) for v in found if v is not None]
            count = len(np.unique(np.concatenate(values))) if values else 0
            most = max(most, count - book.count - 1)
        if most > 0:
            warn(
                f"ClusterWeights: {restored.by} gives back the weights of epoch "
                f"{restored.epoch}, of before they were tied. Pass "
                f"tfcompress.OnceFinal({restored.by}(...), ClusterWeights(...)) in its "
                "place, for the best of the epochs after it."
            )

    def release(self) -> None:
        if self._training is not None:
            self._training.stop()
        self._training = self._begin = None

    def _begin_if_due(self) -> bool:
        step = self.current_step()
        if self._begin is None or step < self._begin:
            return False
        self._begin = None
        with self.model.distribute_strategy.scope():
            if not self.model.optimizer.built:
                # Its first step would build it, on what is left to it.
                self.model.optimizer.build(self.model.trainable_variables)
            books = [
                Codebook(
                    variables,
                    count,
                    self.initialization,
                    self.members == "trained",
                    any(is_projected(v) for v in variables.values()),
                )
                for count, variables in self._groups()
            ]
            for book in books:
                for kernel in book.kernels:
                    values = kernel.expand(book.entries.value)
                    kernel.variable.assign(values)
            self._share_scales(books)
            self._training = SharedTraining(self.model.optimizer, books)
            calls = int(calls_of(innermost(self.model.optimizer)).numpy())
            self._training.resume(calls - self._tied_at)
        if self.verbose:
            kernels = [kernel for book in books for kernel in book.kernels]
            size, count = sum(kernel.size for kernel in kernels), len(kernels)
            values = "/".join(str(_distinct(book)) for book in books)
            print(
                f"ClusterWeights: {count} kernel{'s' * (count != 1)}, {size} weights; "
                f"{values} values at step {step}."
            )
        return True

    def _share_scales(self, books: list[Codebook]) -> None:
        """Lets quantized kernels round equal weights to equal integers."""
        shared = {id(kernel.variable) for book in books for kernel in book.kernels}
        parted = []
        for path, layer in walk(self.model):
            if hasattr(layer, "share_scales"):
                layer.share_scales(shared)
                if layer.one_scale is None and shared & {id(v) for v in layer.weights}:
                    parted.append(path)
        if parted:
            warn(
                "The layer behind each of these (such as BatchNormalization) scales "
                f"every channel: {', '.join(parted)}. In integers they share values "
                "within a channel, not across channels."
            )

    def _first_step(self, epoch: int) -> int:
        if not isinstance(self.begin_step, float):
            return self.begin_step
        first, last = self.fit_steps(epoch)
        return first + round(self.begin_step * (last - first))

    def _tying_iteration(self, epoch: int, begin: int) -> int:
        """Returns how often the optimizer was called when weights are or were tied."""
        calls = (self.params or {}).get("steps")
        if calls is None:
            return begin
        every = getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1
        first = self.fit_steps(epoch)[0]
        into = (max(begin, first) - first) * every
        # Callbacks run before the first of several steps per execution.
        late = -(into % calls) % self.model.steps_per_execution
        return first * every + into + min(late, calls - into % calls)

    def _groups(self) -> list[tuple[int, dict[str, keras.Variable]]]:
        """Returns the kernels that share a codebook by name, and its size."""
        groups: dict[Any, tuple[int, dict[str, keras.Variable]]] = {}
        for name, variable, rule, count in self._kernels():
            size = int(variable.shape.num_elements())
            if count > size:
                raise InvalidArgumentError(
                    f"'{name}' has fewer weights than clusters.",
                    received=f"{count} clusters for {size} weights",
                    expected=f"num_clusters <= {size}",
                    fix="leave the layer out with `filters`, or give it a number of "
                    "its own: num_clusters={'filter': number}",
                )
            key = rule if self.scope == "global" else id(variable)
            groups.setdefault(key, (count, {}))[1][name] = variable
        return list(groups.values())

    def _kernels(self) -> list[tuple[str, keras.Variable, int, int]]:
        """Returns name, variable, rule and number of clusters of each kernel."""
        model, given = self.model, self.num_clusters
        rules = given if isinstance(given, Mapping) else {None: given}
        trainable = {id(v): v for v in model.trainable_variables}

        def candidate(layer: keras.Layer) -> bool:
            return any(id(v) in trainable for _, v in kernels_of(layer))

        chosen = {id(layer) for _, layer in select(model, self.filters, candidate)}
        found: dict[int, tuple[str, keras.Variable, int, int]] = {}
        for position, (rule, count) in enumerate(rules.items()):
            for path, layer in select(model, rule, candidate):
                kernels = list(kernels_of(layer)) if id(layer) in chosen else []
                for kernel, variable in kernels:
                    name = f"{path}.{kernel.attribute}" if len(kernels) > 1 else path
                    if id(variable) in trainable:
                        number = (
                            _values_of(variable) if isinstance(count, str) else count
                        )
                        if number is not None:
                            entry = (name, variable, position, number)
                            found.setdefault(id(variable), entry)
        if not found and _KEEP in rules.values():
            raise InvalidArgumentError(
                "There are no shared values to keep.",
                received=f"kernels of '{model.name}' with more than {_MOST} values",
                expected="a model whose weights were tied before",
                fix="pass a number of values, such as 16",
            )
        if not found:
            raise InvalidArgumentError(
                f"Model '{model.name}' has no trainable kernel to cluster.",
                received=f"filters={self.filters!r}, num_clusters={given!r}",
                expected="at least one trainable layer with a kernel, such as Dense",
                fix="set layer.trainable = True on the layers to cluster",
            )
        if self.filters is None and not isinstance(given, Mapping):
            known = found.keys() | lora_variables(model) | _steps_of_quantizers(model)
            # Those of attention have two axes, and are no kernels for that.
            known |= {id(getattr(one, "bias", None)) for _, one in walk(model)}
            _name_left_out(v for k, v in trainable.items() if k not in known)
        order = {key: position for position, key in enumerate(trainable)}
        return [found[key] for key in sorted(found, key=lambda key: order[key])]


def _values_of(variable: keras.Variable) -> int | None:
    """Returns how many values a kernel has; None if it shares none."""
    values = ops.convert_to_numpy(ops.cast(variable, "float32"))
    if not np.isfinite(values).all() or not values.any():
        return None
    count = len(np.unique(values))
    return count if 2 <= count <= min(_MOST, values.size - 1) else None


def _distinct(book: Codebook) -> int:
    zeros = any(kernel.size > int(kernel.alive.numpy()) for kernel in book.kernels)
    return book.count + zeros


def _steps_of_quantizers(model: keras.Model) -> set[int]:
    """Returns the `id`s of what quantizers learn beside the kernels."""
    return {
        id(variable)
        for _, layer in walk(model)
        if hasattr(layer, "share_scales")
        for states in layer.states
        for variable in states.values()
    }


def _name_left_out(variables: Any) -> None:
    names = [v.path for v in variables if len(v.shape) > 1]
    if names:
        fix = "tell where their kernels are with register_layer_rule"
        exclude(names, "clustered", "their layers have no rule", fix, asked_for=False)


def _check_number(number: Any) -> None:
    integer(
        number,
        "`num_clusters` must be a number of shared values.",
        low=2,
        fix="8, 16 or 32 are usual; with one value a layer could tell nothing",
    )
