"""Tables in markdown that can be read without rendering them."""

from collections.abc import Sequence


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1
) -> str:
    """Returns a markdown table whose columns are aligned.

    Args:
        headings: one for each column.
        rows: the written cells.
        names: how many columns, from the left, hold words; all others hold numbers
            and stand to the right.

    >>> print(table(["layer", "bits"], [["a|b", "8"]]))
    | layer | bits |
    | ----- | ---: |
    | a\\|b  |    8 |
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *rows)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if position < names else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(cells, widths))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if position < names else "-" * (width - 1) + ":"
        for position, width in enumerate(widths)
    ]
    return "\n".join([line(headings), line(rule), *map(line, rows)])
