"""Records README's commands in a terminal: ``python tools/terminal.py`` runs them, and writes an animated SVG.

It needs ``../shared/weights/yolov8n.pt`` and the model of ``make quickstart``. What the commands printed is kept in
docs/data/terminal.txt, where tests compare README with it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from textwrap import wrap

REPO = Path(__file__).parents[1]
QUICKSTART = REPO / "runs/detect/ela-quickstart/weights/last.pt"
OFFICIAL = REPO / "../shared/weights/yolov8n.pt"
RECORD, PICTURE = REPO / "docs/data/terminal.txt", REPO / "docs/terminal.svg"
STEPS = (  # command, the first words of the first line that is shown
    ("ela-yolo insert model=yolov8n.pt", "ELA follows"),
    ("ela-yolo ablate model=best.pt data=rows.yaml", "| attention removed"),
    ("ela-yolo export model=best.pt format=onnx", "best.onnx against"),
)
WIDTH, LINE, MARGIN = 840, 18, 16  # px
COLUMNS = 110  # characters
STYLE = """
text { font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d0d7de; white-space: pre; }
.command { fill: #7ee787; font-weight: bold; }
.result { fill: #ffffff; font-weight: bold; }
text { animation: appear 0.3s both; }
@keyframes appear { from { opacity: 0.2; } to { opacity: 1; } }
@media (prefers-reduced-motion: reduce) { text { animation: none; } }
"""


def record() -> list[str]:
    """Run the commands in an empty folder, and return their lines and those that they print."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(OFFICIAL, Path(folder) / "yolov8n.pt")
        shutil.copy(QUICKSTART, Path(folder) / "best.pt")
        for command, start in STEPS:
            program, *keys = command.split()
            env = {**os.environ, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
            done = subprocess.run(
                [Path(sys.executable).with_name(program), *keys], cwd=folder, env=env, capture_output=True, check=True
            )
            printed = done.stdout.decode().splitlines()
            first = next(number for number, line in enumerate(printed) if line.startswith(start))
            lines += [f"$ {command}", *(line for line in printed[first:] if line), ""]
    return lines[:-1]


def draw(lines: list[str]) -> str:
    """Return the SVG: the lines appear one after the other, with a pause after each command."""
    time, texts = 0.0, []
    for number, line in enumerate(part for whole in lines for part in wrap(whole, COLUMNS) or [""]):
        kind = (
            "command" if line.startswith("$") else "result" if line.startswith(("ELA:", "Without", "the file")) else ""
        )
        place = f'x="{MARGIN}" y="{MARGIN + LINE * (number + 0.8):.0f}" style="animation-delay: {time:.1f}s"'
        texts.append(f'<text class="{kind}" {place}>{escape(line)}</text>')
        time += 0.8 if kind == "command" else 0.5 if not line else 0.05
    size = f'width="{WIDTH}" height="{2 * MARGIN + LINE * len(texts)}"'
    background = f'<rect {size} rx="8" fill="#0d1117"/>'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{STYLE}</style>", background, *texts, "</svg>\n"]
    )


if __name__ == "__main__":
    printed = record()
    RECORD.write_text("\n".join(printed) + "\n", encoding="utf-8")
    PICTURE.write_text(draw(printed), encoding="utf-8")
