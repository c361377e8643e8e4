"""Which step of a sequence a recurrent layer is computing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_state = threading.local()


@contextlib.contextmanager
def at_step(step: Any, steps: int) -> Iterator[None]:
    """Inside, a call of `FakeQuantize` is that of one step of a sequence.

    Each site of a layer then stands for `steps` of them.
    """
    before = getattr(_state, "step", None)
    _state.step = step, steps
    try:
        yield
    finally:
        _state.step = before


def site_now(site: Any) -> Any:
    """Returns the site that a call stands for at the step that is being computed."""
    step = getattr(_state, "step", None)
    return site if step is None else site * step[1] + step[0]


def in_loop() -> bool:
    """Returns whether steps are computed in a loop of the graph."""
    step = getattr(_state, "step", None)
    return step is not None and not isinstance(step[0], int)
