"""Recipes go to text and come back; any other text is refused with a reason."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress import InvalidArgumentError
from tfcompress.compression.recipe import Recipe
from tfcompress.compression.stages import Fit, Prune, Quantize

QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)
STAGES = st.one_of(
    st.builds(Prune, st.floats(0.05, 0.95)),
    st.builds(Fit, st.integers(1, 9), st.floats(1e-4, 1.0)),
    st.builds(Quantize),
)
RECIPES = st.builds(
    lambda stages, seed, name: Recipe((*stages, Fit(1)), seed=seed, name=name),
    st.lists(STAGES, max_size=4),
    st.integers(0, 2**31 - 1),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20),
)
PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=9), inner, max_size=3),
    ),
    max_leaves=8,
)


@QUICK
@given(RECIPES)
def test_recipes_come_back(recipe):
    assert Recipe.from_text(recipe.to_yaml()) == recipe
    assert Recipe.from_text(recipe.to_json()) == recipe


def refused_or_read(text):
    with contextlib.suppress(InvalidArgumentError):
        assert isinstance(Recipe.from_text(text), Recipe)


@QUICK
@given(st.text(max_size=60))
def test_any_text(text):
    refused_or_read(text)


@QUICK
@given(st.dictionaries(st.sampled_from(["tfcompress", "stages", "seed", "x"]), PLAIN))
def test_any_content(content):
    import yaml

    refused_or_read(yaml.safe_dump({"tfcompress": 1, "stages": [], **content}))
