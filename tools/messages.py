"""Writes the list of messages in docs/troubleshooting.md from the errors that the code raises.

::

    python tools/messages.py

A message says what is wrong and, behind its last semicolon, what to do. Parts that differ are an ellipsis.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from ela_yolo import errors
from ela_yolo.cli.keys import UsageError

REPO = Path(__file__).parent.parent
PAGE = REPO / "docs/troubleshooting.md"
BEGIN = "<!-- written by tools/messages.py -->"
CLASSES = {UsageError.__name__} | {name for name, each in vars(errors).items() if isinstance(each, type)}
SUBJECTS = {  # folder or file of the package -> heading
    "cli": "The command line",
    "host": "Models, YAMLs, rows and data sets",
    "edit": "Inserting and removing",
    "gates": "Attention",
    "parity": "Exports",
    "cost": "Profiles",
    "study": "Comparisons",
    "data": "Data sets that come along",
    "util": "Files",
}


def messages() -> Iterator[tuple[str, str, str]]:
    """Yield folder, what is wrong and what to do, of each message, in the order of the files."""
    package = REPO / "ela_yolo"
    for file in sorted(package.rglob("*.py")):
        raised = [
            node.exc
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        ]
        for call in sorted(raised, key=lambda call: call.lineno):
            if isinstance(call.func, ast.Name) and call.func.id in CLASSES and call.args:
                wrong, _, remedy = _text(call.args[0]).rpartition("; ")
                if len((wrong or remedy).replace("…", "").strip(" :,")) > 3:
                    yield file.relative_to(package).parts[0], wrong or remedy, remedy if wrong else ""


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…"


def listing() -> str:
    """Return the list as Markdown: a heading and a table for each subject."""
    found = [*dict.fromkeys(messages())]
    text = ""
    for folder, heading in SUBJECTS.items():
        rows = [(_cell(wrong), _cell(remedy)) for where, wrong, remedy in found if where == folder]
        if rows:
            text += f"\n### {heading}\n\n| message | what to do |\n|---|---|\n"
            text += "".join(f"| {wrong} | {remedy or 'as it says'} |\n" for wrong, remedy in rows)
    return text


def _cell(text: str) -> str:
    for plain, escaped in (("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("[", "\\["), ("_", "\\_"), ("\n", " ")):
        text = text.replace(plain, escaped)
    return text


def page() -> str:
    """Return the page with the list as the code has it now."""
    written, _, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{written}{BEGIN}\n{listing()}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
