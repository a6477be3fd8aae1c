"""Tables in Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]] = ()) -> str:
    r"""Return a Markdown table, without a line end after its last row.

    Args:
        head: The titles of the columns.
        rows: The cells of each row. To print rows as they come, leave them out here and print each by
            ``markdown_row``.

    Examples:
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


def latex_table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    r"""Return a table for LaTeX with the package booktabs.

    Examples:
        >>> print(latex_table(["model", "AP ± sd"], [["yolo_n", "50% ± 1"]]))
        \begin{tabular}{ll}
        \toprule
        model & AP $\pm$ sd \\
        \midrule
        yolo\_n & 50\% $\pm$ 1 \\
        \bottomrule
        \end{tabular}
    """
    lines = [" & ".join(map(_latex, cells)) + r" \\" for cells in (head, *rows)]
    top = [rf"\begin{{tabular}}{{{'l' * len(head)}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}"])


def _latex(cell: str) -> str:
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", cell)
    return escaped.replace("±", r"$\pm$").replace("²", r"$^2$")
