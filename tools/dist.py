"""Builds the sdist and the wheel, checks what is in them, and tries the wheel in a fresh environment.

::

    python tools/dist.py

The wheel is built from the sdist and, once more, from the clone: both must be the same. The fresh environment sees the
installed packages of this one, so that PyTorch is not fetched again, and gets ela-yolo from the wheel alone.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

REPO = Path(__file__).parent.parent
DIST = REPO / "dist"
LIMIT = 1800  # s, of each process that is started here
IN_WHEEL = (  # a file of each kind that an installation needs
    "ela_yolo.pth",
    "ela_yolo.start",
    "_ela_yolo_start/__init__.py",
    "ela_yolo/py.typed",
    "ela_yolo/gates/page.html",
    "ela_yolo/cfg/yolov8-ela.yaml",
    "ela_yolo/datasets/rows.yaml",
    "ela_yolo/datasets/scenes.yaml",
    ".dist-info/licenses/LICENSE",
)


def main() -> None:
    """Build, check and try."""
    shutil.rmtree(DIST, ignore_errors=True)
    python("-m", "build", "--no-isolation", "--outdir", DIST, REPO)  # the sdist, and from it the wheel
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        python("-m", "build", "--no-isolation", "--wheel", "--outdir", folder, REPO)
        check(contents(wheel) == contents(next(Path(folder).glob("*.whl"))), "the sdist builds another wheel")
    python("-m", "twine", "check", "--strict", sdist, wheel)
    names = [*contents(wheel)]
    for wanted in IN_WHEEL:
        check(any(name.endswith(wanted) for name in names), f"the wheel lacks {wanted}")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in ("LICENSE", "README.md", "CHANGELOG.md", "tests/test_ela.py", "tools/dist.py", "docs/index.md"):
        check(wanted in inside, f"the sdist lacks {wanted}")
    try_out(wheel)
    print(f"{sdist.name}, {wheel.name}: built, checked and tried")


def contents(wheel: Path) -> dict[str, str]:
    """Return file -> SHA-256, of all that is in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def try_out(wheel: Path) -> None:
    """Install the wheel into a fresh environment and go the way of README there."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False)
        interpreter = next(Path(folder).glob("[Bb]in/python"), Path(folder) / "Scripts/python.exe")
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        here, there = (
            subprocess.run(
                [each, "-c", code], check=True, capture_output=True, encoding="utf-8", timeout=60
            ).stdout.strip()
            for each in (sys.executable, str(interpreter))
        )
        # A plain line adds a folder to the path, and executes no start-up file in it: those of the wheel alone run.
        (Path(there) / "packages.pth").write_text(f"{here}\n", encoding="utf-8")
        python("-m", "pip", "--python", interpreter, "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
        yolo = "from ultralytics.cfg import entrypoint; entrypoint()"
        script = Path(interpreter).with_name("yolo")
        script.write_text(f"#!{interpreter}\n{yolo}\n", encoding="utf-8")
        script.chmod(0o755)
        subprocess.run([interpreter, REPO / "tools/story.py"], check=True, cwd=folder, timeout=LIMIT)


def check(holds: bool, otherwise: str) -> None:
    """End with a message if something does not hold."""
    if not holds:
        sys.exit(otherwise)


def python(*arguments: object) -> None:
    """Run this Python."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True, timeout=LIMIT)


if __name__ == "__main__":
    main()
