"""Proposals: the order in which they are tried, and the recipes they become."""

import pytest

from tfcompress import Budget
from tfcompress.compression import Measures
from tfcompress.compression.proposals import Space
from tfcompress.compression.scenario import Scenario, considered
from tfcompress.compression.stages import Cluster, Distil, Fit, Prune, Quantize, Shrink

BASELINE = Measures(metric=0.9, bytes=404_000, packed_bytes=370_000, latency_ms=1.0)


def space(target="tflite", costs=("packed_bytes",), family="CNN", epochs=6, sense=None):
    scenario = Scenario(target, family, costs, "logits")
    sense = sense or {"a": {"pruned": 0.1, "4 bits": 0.1}}
    techniques = tuple(considered(scenario))
    return Space(scenario, techniques, BASELINE, 100_000, sense, epochs, 1)


@pytest.mark.parametrize("share", ["50%", "20%", "5%", "3%"])
def test_what_is_tried_first_is_the_gentlest_that_should_fit(share):
    known, budget = space(), Budget(max_packed_bytes=share)
    limit = budget.relative_to(BASELINE).max_packed_bytes
    first = known.ranked(budget, 4)[0]
    assert known.predicted(first)["packed_bytes"] <= limit
    gentler = [p for p in known.all() if known.damage(p) < known.damage(first)]
    assert all(known.predicted(p)["packed_bytes"] > 0.9 * limit for p in gentler)


def test_smaller_budgets_are_met_by_stronger_proposals():
    known = space()
    firsts = [known.ranked(Budget(max_packed_bytes=s), 1)[0] for s in ("30%", "4%")]
    assert known.damage(firsts[0]) < known.damage(firsts[1])


def test_what_is_ranked_differs_and_is_as_many_as_asked_for():
    ranked = space().ranked(Budget(max_packed_bytes="5%"), 6)
    assert len(ranked) == 6
    assert len({tuple(sorted(map(str, p.items()))) for p in ranked}) == 6


def test_no_proposal_fits_but_some_come_all_the_same():
    known = space()
    ranked = known.ranked(Budget(max_packed_bytes=10), 3)
    costs = [known.predicted(p)["packed_bytes"] for p in ranked]
    assert costs == sorted(costs)
    assert costs[0] == min(known.predicted(p)["packed_bytes"] for p in known.all())


def test_every_technique_costs_less_the_stronger_it_is():
    known = space()
    for name, options in known.axes.items():
        if name == "distil":
            continue
        costs = [known.predicted({name: option})["packed_bytes"] for option in options]
        assert costs == sorted(costs, reverse=True), name
        damages = [known.damage({name: option}) for option in options]
        assert damages == sorted(damages), name


def test_a_recipe_trains_after_every_technique():
    point = {"distil": True, "shrink": 0.5, "prune": 0.75, "quantize": "w8a8"}
    recipe = space().recipe({**point, "cluster": 32}, "one")
    assert [type(stage) for stage in recipe.stages] == [
        *(Distil, Shrink, Fit, Prune, Fit, Quantize, Cluster, Fit)
    ]
    assert recipe.epochs == 6
    assert recipe.stages[5].granularity == "tensor"
    assert (recipe.target, recipe.seed, recipe.name) == ("tflite", 1, "one")


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 8, 20])
def test_epochs_are_shared_out(epochs):
    recipe = space(epochs=epochs).recipe({"shrink": 0.5, "prune": 0.5}, "x")
    assert recipe.epochs == max(epochs, 2)
    recipe = space(epochs=epochs).recipe({"quantize": "w8a8"}, "x")
    assert recipe.epochs == epochs


def test_layers_that_mind_four_bits_keep_eight():
    sense = {
        name: {"pruned": 0.0, "4 bits": rise}
        for name, rise in {"in.1": 2.0, "a": 0.01, "b": 0.02, "c": 0.01}.items()
    }
    recipe = space(sense=sense).recipe({"quantize": "w4a8"}, "x")
    assert recipe.stages[0].keep == r"^in\.1$"
    assert space().recipe({"quantize": "w4a8"}, "x").stages[0].keep is None


def test_a_server_with_a_limit_on_bytes_gets_compact_weights():
    assert space("saved_model", ("bytes",)).recipe({}, "x").export == {
        "weights": "compact"
    }
    assert space("saved_model", ("latency_ms",)).recipe({}, "x").export == {}
