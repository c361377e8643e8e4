"""Identities of channels: which positions of which tensors are the same channel.

Every position of a channel axis carries an integer id. Operations that tie channels
(a residual add) put their ids into one class; a class is kept or removed whole.
"""

from __future__ import annotations

import numpy as np

Axes = dict[int, np.ndarray]
"""The channel axes of one tensor: axis -> the id of each position on it."""


class ChannelIds:
    """Disjoint sets of channel ids, and why some of them may not be removed.

    Example:

    >>> ids = ChannelIds()
    >>> a, b = ids.fresh(2), ids.fresh(2)
    >>> ids.tie(a, b)
    >>> ids.fix(b[:1], "is an output of the model")
    >>> roots = ids.roots()
    >>> bool(roots[a[1]] == roots[b[1]]), ids.reasons()
    (True, {0: ('is an output of the model',)})
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._fixed: list[tuple[np.ndarray, str]] = []
        self._inexact: list[np.ndarray] = []

    def fresh(self, count: int, reason: str | None = None) -> np.ndarray:
        """Returns `count` new ids, fixed from the start if a `reason` is given."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        made = np.arange(start, start + count)
        if reason is not None:
            self.fix(made, reason)
        return made

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Puts the ids at equal positions into one class."""
        for a, b in zip(first.ravel().tolist(), second.ravel().tolist()):
            if a != b:
                low, high = sorted((self._root(a), self._root(b)))
                self._parents[high] = low

    def fix(self, members: np.ndarray, reason: str) -> None:
        """Excludes channels from removal; `reason` completes "..., which <reason>"."""
        self._fixed.append((members, reason))

    def are_fixed(self, members: np.ndarray) -> bool:
        """Returns whether it is known already that none of these can go."""
        fixed = {int(i) for ids, _ in self._fixed for i in ids.ravel()}
        return all(int(i) in fixed for i in members.ravel())

    def mix(self, members: np.ndarray) -> None:
        """Notes that removing one of these changes the others, even if it is zero."""
        self._inexact.append(members)

    def _root(self, one: int) -> int:
        parents = self._parents
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    def roots(self) -> np.ndarray:
        """Returns the class of every id: the smallest id in it."""
        return np.array([self._root(i) for i in range(len(self._parents))], dtype=int)

    def reasons(self) -> dict[int, tuple[str, ...]]:
        """Maps the classes that are fixed to the reasons, each once."""
        found: dict[int, dict[str, None]] = {}
        for members, reason in self._fixed:
            for root in {self._root(int(i)) for i in members.ravel()}:
                found.setdefault(root, {})[reason] = None
        return {root: tuple(reasons) for root, reasons in found.items()}

    def mixed(self) -> set[int]:
        """Returns the classes noted by `mix`."""
        return {self._root(int(i)) for ids in self._inexact for i in ids.ravel()}
