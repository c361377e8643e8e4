"""Results as notebooks show them: words and tables of HTML."""

from collections.abc import Sequence
from html import escape


def paragraph(text: str, strong: bool = False) -> str:
    """Returns a paragraph.

    >>> paragraph("a < b", strong=True)
    '<p><b>a &lt; b</b></p>'
    """
    inner = escape(text)
    return f"<p><b>{inner}</b></p>" if strong else f"<p>{inner}</p>"


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table, whose first column holds the names of its rows.

    >>> html_table(["layer", "bits"], [["a", "8"]])
    '<table><thead><tr><th>layer</th><th>bits</th></tr></thead><tbody><tr><th>a</th>\
<td>8</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr><th>{escape(first)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
