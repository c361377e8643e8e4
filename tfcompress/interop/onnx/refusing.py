"""What an operator's function raises where it cannot say a node in Keras."""

from __future__ import annotations


class Refused(Exception):
    """A node, or an option of it, has no equal in Keras.

    Args:
        received: what it is.
        expected: what could have been said.
    """

    def __init__(self, received: str, expected: str):
        super().__init__(received, expected)
        self.received, self.expected = received, expected
