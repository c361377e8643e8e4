"""Which layers have which channel rule, as the table of layer types says it.

    python docs/reference/channel_rules.py

prints the part of docs/shrink.md between its two marks; a test asks that it is.
"""

import tfcompress  # noqa: F401  (its rooms fill the columns)
from tfcompress.layers.table import layers_by


def table():
    """Returns the part of the document."""
    lines = [f"| `{rule}` | {names} |" for rule, names in layers_by("channels")]
    return "\n".join(["| rule | layers of Keras |", "|---|---|", *lines]).replace(
        "| `stay` |", "| none: their channels stay |"
    )


if __name__ == "__main__":
    print(table())
