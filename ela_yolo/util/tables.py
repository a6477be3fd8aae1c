"""Tables in Markdown, as every report and tool of this package prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]] = ()) -> str:
    r"""Return a Markdown table, without a line end after its last row.

    Args:
        head: The titles of the columns.
        rows: The cells of each row. To print rows as they come, leave them out here and print each by
            :func:`markdown_row`.

    Example:
        >>> print(markdown_table(["layer", "module"], [["3", "ELA"], ["4", "A|B"]]))
        | layer | module |
        |---|---|
        | 3 | ELA |
        | 4 | A\|B |
    """
    return "\n".join([markdown_row(head), "|---" * len(head) + "|", *map(markdown_row, rows)])


def markdown_row(cells: Iterable[str]) -> str:
    """Return one row of a Markdown table; a ``|`` in a cell is escaped, and a line end becomes a space."""
    escaped = (" ".join(cell.splitlines()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
