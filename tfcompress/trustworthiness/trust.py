"""trust: what a compressed model does otherwise than the original."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.runner import Runner
from tfcompress.trustworthiness import classification, saliency
from tfcompress.trustworthiness.changes import Change, ChangedAnswer
from tfcompress.trustworthiness.pair import Pair
from tfcompress.trustworthiness.result import TrustReport
from tfcompress.trustworthiness.robustness import Stress
from tfcompress.trustworthiness.settings import TrustSettings, TrustThresholds
from tfcompress.trustworthiness.thresholds import failures


def trust(
    original: keras.Model | Runner | Artifact | str | os.PathLike,
    compressed: keras.Model | Runner | Artifact | str | os.PathLike,
    inputs: Any,
    labels: Any,
    thresholds: TrustThresholds | Mapping[str, float] | None = None,
    compressed_model: keras.Model | None = None,
    class_names: Sequence[str] | None = None,
    **settings: Any,
) -> TrustReport:
    """Measures what compression changed in a classifier apart from its size.

    When to use: before a compressed model replaces the original. Two models of equal
    accuracy may differ in which samples they get right, in how confident they are, and
    in how robust they are.

    Source: calibration error in 15 bins: Guo et al., 2017. Corruptions: Hendrycks &
    Dietterich, 2019. Attack, by the fast gradient sign method: Goodfellow et al., 2015.
    That pruning hurts some classes and samples much more than the mean: Hooker et al.,
    "What Do Compressed Deep Neural Networks Forget?", 2019. Explanations are gradients
    with respect to inputs (Simonyan et al., 2013) or, where a model has none,
    occlusion (Zeiler & Fergus, 2014), compared by Spearman's rank correlation.

    Args:
        original: the model before compression: a Keras model; or an artifact, which has
            no gradients and so is tested without an attack.
        compressed: a Keras model, or anything that `load` runs: an `Artifact`, a path,
            a `Runner`.
        inputs: samples that were not trained on, along the first axis: an array, a list
            in the order of the original's inputs, a dict by input name, or a data set
            of batches.
        labels: class numbers of shape `(n,)`, or one-hot rows.
        thresholds: `TrustThresholds` or a dict of its fields; None checks nothing.
        compressed_model: the Keras model that a file was made from, for gradients; of
            an integer model, as it was before `finalize`.
        class_names: what the classes are called; None numbers them.
        **settings: how to measure:
            `corruptions`: "auto" for all that fit the inputs, names, or `()` for none.
            `severities`: some of 1 to 5; default (1, 3, 5).
            `epsilon`: how far the attack moves each value, as a share of the value
            range; default 8/255.
            `value_range`: lowest and highest value of the inputs; None determines [0,
            1], [-1, 1], [0, 255] or the range of the samples, and for features one
            range each.
            `from_logits`: whether both models give logits; None takes outputs for
            probabilities if they lie in [0, 1] and add up to 1.
            `samples`, `saliency_samples`: how many samples, drawn by `seed`, are
            corrupted and attacked (1000), and explained (100; 0 for none).
            `examples`: how many changed answers keep their image (24).
            `seed`: seed of drawn samples and noise; equal seeds give equal reports.

    Returns:
        A `TrustReport`; call `.raise_if_failed()` to stop a build.

    Raises:
        InvalidArgumentError: if inputs, labels or arguments do not fit, or the original
            gives NaN.
        VerificationError: if the compressed model gives NaN.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> report = trust(model, model, x, np.arange(64) % 3, {"min_agreement": 0.99})
    >>> report.agreement, report.accuracy.change, report.passed
    (1.0, 0.0, True)
    """
    limits, how = TrustThresholds.of(thresholds), TrustSettings.of(settings)
    pair = Pair(original, compressed, compressed_model, inputs, labels, how)
    names = _names(class_names, pair.classes)
    stress = Stress(pair, _drawn(pair.samples, how.samples, how.seed), how)
    corruptions, attack = stress.corruptions(), stress.attack()
    drawn = _drawn(pair.samples, how.saliency_samples, how.seed)
    explained = saliency.compare(pair, drawn) if len(drawn) else None

    answers, labels = pair.answers, pair.labels
    tables = [classification.confusion(labels, a, pair.classes) for a in answers]
    bins = [classification.reliability(p, labels) for p in pair.probabilities]
    report = TrustReport(
        original=pair.original.name,
        compressed=pair.compressed.name,
        outputs=pair.original.outputs.kind,
        samples=pair.samples,
        agreement=float(np.mean(answers[0] == answers[1])),
        accuracy=Change(*(float(np.mean(a == labels)) for a in answers)),
        calibration_error=Change(*map(classification.calibration_error, bins)),
        classes=classification.class_changes(tables, names),
        confusion_original=tables[0],
        confusion_compressed=tables[1],
        reliability_original=bins[0],
        reliability_compressed=bins[1],
        changed=_changed(pair, how.examples),
        corruptions=corruptions,
        attack=attack,
        saliency=explained,
        thresholds=limits,
        notes=tuple(_notes(pair, attack, len(drawn), explained)),
    )
    return dataclasses.replace(report, failures=tuple(failures(report)))


def _names(given: Sequence[str] | None, classes: int) -> list[str]:
    names = range(classes) if given is None else given
    known = list(map(str, names)) if isinstance(names, Iterable) else []
    if len(known) != classes:
        raise InvalidArgumentError(
            "`class_names` does not fit the models.",
            received=f"{len(known)} names" if known else repr(given),
            expected=f"{classes}, one for each class",
        )
    return known


def _drawn(count: int, wanted: int, seed: int) -> np.ndarray:
    """Returns the places of at most `wanted` samples, in order."""
    if wanted >= count:
        return np.arange(count)
    drawn = np.random.default_rng(seed).choice(count, wanted, replace=False)
    return np.sort(drawn)


def _changed(pair: Pair, examples: int) -> tuple[ChangedAnswer, ...]:
    """Returns the answers that changed: broken ones first, the surest before others."""
    (before, after), labels = pair.answers, pair.labels
    sure = [shares.max(axis=1) for shares in pair.probabilities]
    places = np.flatnonzero(before != after)
    order = np.lexsort((-sure[0][places], before[places] != labels[places]))
    return tuple(
        ChangedAnswer(
            index=int(place),
            label=int(labels[place]),
            original=int(before[place]),
            compressed=int(after[place]),
            confidence=Change(float(sure[0][place]), float(sure[1][place])),
            image=pair.picture(int(place)) if number < examples else None,
        )
        for number, place in enumerate(places[order])
    )


def _notes(pair: Pair, attack: Any, drawn: int, explained: Any) -> Iterator[str]:
    if not pair.ranges:
        yield "Inputs are integers or texts, which have no corruption and no attack."
    elif attack is None:
        yield "Not attacked: the original has no gradient."
    elif attack.own is None:
        yield (
            "The compressed model met only the attack crafted on the original: it has "
            "no gradient. `compressed_model` takes a form of it that has one."
        )
    if drawn and explained is None:
        yield "Explanations were not compared: hiding parts of inputs moves nothing."
    if pair.form_agreement is not None and pair.form_agreement < 0.99:
        yield (
            f"`compressed_model` gives the compressed model's answer in only "
            f"{pair.form_agreement:.1%} of the samples."
        )
