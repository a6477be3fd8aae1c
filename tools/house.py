"""Draws docs/house.svg: the folders of the package, in the order in which they may import each other.

::

    python tools/house.py

The order is that of the import rules in pyproject.toml, and what stands in a box is the first line of its docstring.
"""

import ast
import re
from html import escape
from pathlib import Path

REPO = Path(__file__).parent.parent
PICTURE = REPO / "docs/house.svg"
WIDTH, HEIGHT, GAP = 860, 44, 8  # px, of a row


def layers() -> list[list[str]]:
    """Return the rows of the house from the top: the names that lie beside each other."""
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^layers = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    return [line.strip().strip('",').split(" | ") for line in block.splitlines()]


def job(name: str) -> str:
    """Return the first line of the docstring of a folder or a file."""
    folder = REPO / "ela_yolo" / name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()[0]


def drawing() -> str:
    """Return the picture."""
    rows = layers()
    boxes = []
    for number, names in enumerate(rows):
        width = (WIDTH - GAP * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            left, top = place * (width + GAP), number * (HEIGHT + GAP)
            shown = name + ("/" if (REPO / "ela_yolo" / name).is_dir() else ".py")
            boxes.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{HEIGHT}" rx="5"/>'
                f'<text x="{left + 12:.0f}" y="{top + 18}" class="name">{escape(shown)}</text>'
                f'<text x="{left + 12:.0f}" y="{top + 35}">{escape(_short(job(name), width))}</text>'
            )
    height = len(rows) * (HEIGHT + GAP)
    style = (
        "rect{fill:#f3f6fa;stroke:#8aa2bd}text{font:12px system-ui,sans-serif;fill:#39424d}"
        ".name{font-weight:600;fill:#14324f}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        "<title>The folders of ela_yolo; each imports only what lies below it</title>"
        f"<style>{style}</style>\n" + "\n".join(boxes) + "\n</svg>\n"
    )


def _short(text: str, width: float) -> str:
    most = int(width / 6.4)
    text = text.replace("``", "")
    return text if len(text) <= most else f"{text[: most - 1].rsplit(' ', 1)[0]} ..."


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
