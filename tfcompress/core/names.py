"""Names of layers that are added to a model."""

from __future__ import annotations

import re


def scope_name(name: str) -> str:
    """Returns a name that a layer can be called under.

    Keras takes any name for an input, which is never called; a layer that is named
    after it is, within a scope of TensorFlow's that bears its name.

    >>> scope_name("features of person"), scope_name("_x")
    ('features_of_person', 'layer_x')
    """
    allowed = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)
    return allowed if re.match(r"[A-Za-z0-9.]", allowed) else f"layer{allowed}"
