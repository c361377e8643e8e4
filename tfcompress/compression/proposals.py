"""Proposals: points of the search space, what they may cost, and their recipes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from tfcompress.compression.budget import COSTS, Budget, Measures
from tfcompress.compression.recipe import Recipe
from tfcompress.compression.scenario import Considered, Scenario
from tfcompress.compression.sensitivity import Sensitivity, fragile
from tfcompress.compression.stages import (
    Cluster,
    Distil,
    Factorize,
    Fit,
    Prune,
    Quantize,
    Shrink,
    Stage,
)

# How strongly each technique is to be used, by its name.
Proposal = Mapping[str, Any]

# Entropy of what is stored, in bits a weight; float32 hardly packs. They only order
# what is tried first: all that counts is measured of real artifacts.
_PACKED_BITS = {None: 29.0, "w8a8": 6.5, "w4a8": 3.3}
_RAW_BITS = {None: 32.0, "w8a8": 8.0, "w4a8": 6.0}
# Of one call in LiteRT, against float.
_INTEGER_TIME = 0.5
# A prediction must leave this much of a limit free to be taken at its word.
_MARGIN = 0.9
# Shares of the epochs: recovering from smaller layers, growing zeros, settling.
_SHARES = {"shrink": 0.4, "prune": 0.4, "last": 0.2}
_LAST_RATE = 0.3


@dataclasses.dataclass(frozen=True)
class Space:
    """All that may be proposed for a model.

    Attributes:
        scenario: what is asked of it.
        considered: the techniques and their strengths.
        baseline: what its artifact costs.
        weights: how many weights its kernels have.
        epochs: of each candidate.
        seed: of everything random.
        export: options of the target's format.
    """

    scenario: Scenario
    considered: tuple[Considered, ...]
    baseline: Measures
    weights: int
    sensitivity: Sensitivity
    epochs: int
    seed: int
    export: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The strengths of each technique that is tried."""
        return {c.technique: c.options for c in self.considered if c.tried}

    def all(self) -> list[Proposal]:
        """Returns every point of the space that does something."""
        axes = self.axes
        points = [dict(zip(axes, p)) for p in itertools.product(*axes.values())]
        return [
            p for p in points if any(v for name, v in p.items() if name != "distil")
        ]

    def ranked(self, budget: Budget, count: int) -> list[Proposal]:
        """Returns the most promising proposals, the best first.

        The gentlest that are predicted to be within the budget, then stronger and
        gentler ones along the front of predicted cost and damage in turns.
        """
        limits = budget.limits(self.baseline)
        points = sorted(self.all(), key=self.damage)
        fits = [p for p in points if self._within(p, limits)]
        # Within cost alike, less damage first; along the front cost falls as damage
        # rises.
        front: list[Proposal] = []
        least = math.inf
        for point in points:
            cost = self.predicted(point)[budget.cost]
            if cost < 0.97 * least:
                front.append(point)
                least = cost
        if not fits:
            least_of_all = min(points, key=lambda p: self.predicted(p)[budget.cost])
            rest = [point for point in front[::-1] if point != least_of_all]
            return [least_of_all, *rest][:count]
        start = fits[0]
        beyond = [p for p in front if self.damage(p) > self.damage(start)]
        before = [p for p in front if self.damage(p) < self.damage(start)][::-1]
        # Other structures that are as small come first, then smaller ones; what should
        # be too large is there for the rest of the front.
        turns = itertools.zip_longest(_one_per_structure(fits), beyond, before)
        rest = [p for turn in turns for p in turn if p is not None]
        unique: list[Proposal] = []
        for point in (start, *rest):
            if point not in unique:
                unique.append(point)
        return unique[:count]

    def predicted(self, proposal: Proposal) -> dict[str, float]:
        """Returns roughly what a proposal will cost, by measure."""
        kept = (proposal.get("shrink") or 1.0) * (proposal.get("factorize") or 1.0)
        scheme = proposal.get("quantize")
        count = self.weights * kept
        overhead = max(self.baseline.bytes - 4 * self.weights, 0)
        bits = _PACKED_BITS[scheme]
        if proposal.get("cluster"):
            bits = min(bits, math.log2(proposal["cluster"]) - 0.3)
        share = 1 - (proposal.get("prune") or 0.0)
        if share < 1:
            bits = share * bits + _entropy(share)
        raw = bits if self.scenario.target == "ethos_u" else _RAW_BITS[scheme]
        faster = (
            _INTEGER_TIME if scheme and self.scenario.target != "saved_model" else 1
        )
        return {
            "bytes": overhead + count * raw / 8,
            # Names and shapes of operators pack to about a third.
            "packed_bytes": overhead / 3 + count * bits / 8,
            "latency_ms": self.baseline.latency_ms * kept * faster,
            # The baseline on an NPU is in integers too. Half of the work is left by
            # 0.7 times the channels, whose values are what memory is needed for.
            "cycles": (self.baseline.cycles or 0) * kept,
            "sram": (self.baseline.sram or 0) * math.sqrt(kept),
        }

    def damage(self, proposal: Proposal) -> float:
        """Returns a number that grows with how much a proposal takes from the model."""
        smaller = -math.log2(proposal.get("shrink") or 1.0)
        lower = -math.log2(proposal.get("factorize") or 1.0)
        zeros = -math.log2(1 - (proposal.get("prune") or 0.0))
        values = 8 - math.log2(proposal.get("cluster") or 256)
        bits = 1.0 if proposal.get("quantize") == "w4a8" else 0.0
        pruned, rounded = self._weights_of_probes()
        # Squares: a little of everything does less harm than a lot of one thing.
        return (
            0.5 * smaller**2
            + 0.6 * lower**2
            + 0.12 * pruned * zeros**2
            + 0.03 * rounded * values**2
            + 0.6 * rounded * bits
        )

    def recipe(self, proposal: Proposal, name: str) -> Recipe:
        """Returns the recipe of a proposal: each technique, then fine-tuning."""
        stages: list[Stage] = [Distil()] if proposal.get("distil") else []
        parts: list[tuple[str, list[Stage]]] = []
        smaller: list[Stage] = []
        if proposal.get("shrink"):
            smaller.append(Shrink(macs=proposal["shrink"]))
        if proposal.get("factorize"):
            smaller.append(Factorize(size=proposal["factorize"]))
        if smaller:
            parts.append(("shrink", smaller))
        if proposal.get("prune"):
            parts.append(("prune", [Prune(proposal["prune"])]))
        last = self._last(proposal)
        if last or not parts:
            parts.append(("last", last))
        for (part, found), epochs in zip(parts, _shared(parts, self.epochs)):
            rate = _LAST_RATE if part == "last" and len(parts) > 1 else 1.0
            stages += [*found, Fit(epochs, rate)]
        options = dict(self.export)
        if self.scenario.stores_codes:
            options["weights"] = "compact"
        return Recipe(tuple(stages), self.scenario.target, options, self.seed, name)

    def _last(self, proposal: Proposal) -> list[Stage]:
        stages: list[Stage] = []
        scheme, clusters = proposal.get("quantize"), proposal.get("cluster")
        if scheme:
            keep = None
            if scheme == "w4a8":
                paths = fragile(self.sensitivity, "4 bits")
                keep = "|".join(f"^{re.escape(p)}$" for p in paths) or None
            granularity = "tensor" if clusters and scheme == "w8a8" else "channel"
            stages.append(Quantize(scheme, granularity, keep))
        # Four bits have sixteen values as they are.
        if clusters and scheme != "w4a8":
            stages.append(Cluster(clusters))
        return stages

    def _within(self, proposal: Proposal, limits: dict[str, float]) -> bool:
        predicted = self.predicted(proposal)
        return all(predicted[COSTS[n]] <= _MARGIN * v for n, v in limits.items())

    def _weights_of_probes(self) -> tuple[float, float]:
        """Returns how much this model minds zeros and coarse values: together 2."""
        totals = [
            max(sum(found[probe] for found in self.sensitivity.values()), 1e-6)
            for probe in ("pruned", "4 bits")
        ]
        pruned = min(max(2 * totals[0] / sum(totals), 0.5), 1.5)
        return pruned, 2 - pruned


def _one_per_structure(proposals: list[Proposal]) -> list[Proposal]:
    """Returns the first proposal of each size of the layers."""
    found: dict[tuple, Proposal] = {}
    for one in proposals:
        found.setdefault((one.get("shrink"), one.get("factorize")), one)
    return list(found.values())


def _shared(parts: list[tuple[str, list[Stage]]], epochs: int) -> list[int]:
    """Returns the epochs of each part: at least one, together `epochs` if it can be."""
    total = sum(_SHARES[part] for part, _ in parts)
    counts = [max(1, math.floor(epochs * _SHARES[part] / total)) for part, _ in parts]
    while sum(counts) < epochs:
        # What is left goes to those that are shortest of what they should have.
        short = [
            epochs * _SHARES[part] / total - count
            for (part, _), count in zip(parts, counts)
        ]
        counts[short.index(max(short))] += 1
    return counts


def _entropy(share: float) -> float:
    """Returns the bits of a coin that falls on one side with this probability."""
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)
