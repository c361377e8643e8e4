"""Equations against NumPy's own reading of them."""

import numpy as np
import pytest

from tfcompress.core.equation import Equation


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("ab,bc->ac", [(2, 3), (3, 4)]),
        ("...a, ab -> ...b", [(5, 2, 3), (3, 4)]),
        ("a...,...->a...", [(2, 3, 4), (4,)]),
        ("...ab,b...c->...ac", [(5, 2, 3), (3, 6, 5, 4)]),
        ("ba,ac", [(2, 3), (3, 4)]),
        ("...b,ba", [(5, 2, 3), (3, 4)]),
        ("c...,b...", [(2, 3), (4, 3)]),
        ("ii,i", [(3, 3), (3,)]),
        ("abc,cd,de->abe", [(2, 3, 4), (4, 5), (5, 6)]),
    ],
)
def test_spelled_equations_mean_what_was_written(rng, text, shapes):
    arrays = [rng.normal(size=shape) for shape in shapes]
    equation = Equation.of(text).spelled([array.ndim for array in arrays])
    assert "." not in f"{equation.terms}{equation.target}"
    spelled = f"{','.join(equation.terms)}->{equation.target}"
    np.testing.assert_array_equal(np.einsum(spelled, *arrays), np.einsum(text, *arrays))


def test_named_axes_are_those_with_letters():
    equation = Equation.of("...ab,bc->...ac").named()
    assert (equation.terms, equation.target) == (("ab", "bc"), "ac")
    assert Equation.of("ab,bc").is_whole is False
    assert Equation.of("ab,bc->ac").free_letters()[0] == "d"
