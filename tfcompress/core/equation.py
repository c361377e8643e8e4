"""Equations of `einsum`: which axes are multiplied, summed over and kept."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Equation:
    """An equation of `einsum` or of an EinsumDense, with a letter for each axis.

    Attributes:
        terms: the axes of each tensor that is read; "..." stands for any number.
        target: the axes of the result.
        is_whole: whether the equation says what its result is, which follows from the
            terms where it does not.
    """

    terms: tuple[str, ...]
    target: str
    is_whole: bool = True

    @classmethod
    def of(cls, text: str) -> Equation:
        """Returns the equation that is written in `text`.

        >>> Equation.of("...a, ab -> ...b")
        Equation(terms=('...a', 'ab'), target='...b', is_whole=True)
        >>> Equation.of("ba,...b").target
        '...a'
        """
        source, arrow, target = text.replace(" ", "").partition("->")
        if not arrow:
            letters = source.replace("...", "").replace(",", "")
            once = sorted(name for name in letters if letters.count(name) == 1)
            target = "..." * ("..." in source) + "".join(once)
        return cls(tuple(source.split(",")), target, bool(arrow))

    def free_letters(self) -> list[str]:
        """Returns the letters that stand for no axis yet."""
        return [c for c in string.ascii_letters if c not in "".join(self.terms)]

    def hidden(self, ranks: Sequence[int]) -> list[int]:
        """Returns how many axes the "..." of each term stands for."""
        named = (len(term.replace("...", "")) for term in self.terms)
        return [rank - count for rank, count in zip(ranks, named)]

    def spelled(self, ranks: Sequence[int]) -> Equation:
        """Returns the equation for tensors of these ranks, without any "...".

        >>> Equation.of("...a,ab->...b").spelled((3, 2))
        Equation(terms=('cda', 'ab'), target='cdb', is_whole=True)
        """
        hidden = self.hidden(ranks)
        rest = "".join(self.free_letters()[: max(hidden)])
        # Axes of an ellipsis are aligned at its right end.
        terms = (
            term.replace("...", rest[len(rest) - count :])
            for term, count in zip(self.terms, hidden)
        )
        return Equation(tuple(terms), self.target.replace("...", rest), self.is_whole)

    def named(self) -> Equation:
        """Returns the axes that have a letter, without what "..." stands for."""
        ranks = [len(term.replace("...", "")) for term in self.terms]
        return self.spelled(ranks)
