"""What Python runs at every start: ``ela_yolo.pth`` or, from Python 3.15 on, ``ela_yolo.start`` (PEP 829)."""

import re
import sys
import zipfile

import pytest
from conftest import BIN, HOME, OFF, REPO, installation, run

SOURCES = {
    "ela_yolo.pth": "autoload.pth",
    "ela_yolo.start": "autoload.start",
    "_ela_yolo_start/__init__.py": "start/__init__.py",
}
NATIVE = sys.version_info >= (3, 15)
# By which of the two files; without a reader of .start files Python reads the .pth file.
READERS = [
    pytest.param("pth", marks=pytest.mark.skipif(sys.version_info >= (3, 18), reason="this Python runs no .pth file")),
    "start",
    "both",
]


class Installation:
    """A wheel unpacked into the site-packages of an environment of its own, as it is for one of READERS."""

    def __init__(self, folder, wheel, reader):
        self.folder, self.reader, self.inside = folder, reader, installation(folder, wheel)
        for suffix in {"pth": [".start"], "start": [".pth"], "both": []}[reader]:
            (self.inside / f"ela_yolo{suffix}").unlink()

    def run(self, program, *arguments, env=None):
        """Run a program, or code that is written to one, in a fresh interpreter."""
        if isinstance(program, str):
            (self.folder / "program.py").write_text(program)
            program = self.folder / "program.py"
        emulated = self.reader != "pth" and not NATIVE
        reader = ["-S", REPO / "tests/pep829.py", self.inside] if emulated else []
        interpreter = self.folder / "env" / BIN.name / "python"
        return run(interpreter, *reader, program, *arguments, cwd=self.folder, env=env)


@pytest.fixture(params=READERS)
def installed(request, tmp_path, wheel):
    return Installation(tmp_path, wheel, request.param)


@pytest.fixture
def by_start(tmp_path, wheel):
    return Installation(tmp_path, wheel, "start")


def test_the_wheel_has_them_at_its_root(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        for name, source in SOURCES.items():
            assert archive.read(name) == (REPO / "ela_yolo" / source).read_bytes()
    assert {name for name in names if not name.startswith("ela_yolo/")} == {*SOURCES}
    assert not [name for name in names if name.startswith("ela_yolo/autoload.") and not name.endswith(".py")]


def test_what_they_may_hold():
    """One import line; one entry point in the strict form, package.module:callable."""
    line, nothing = (REPO / "ela_yolo/autoload.pth").read_text(encoding="ascii").split("\n")
    assert line.startswith("import ") and not nothing
    lines = (REPO / "ela_yolo/autoload.start").read_text(encoding="ascii").splitlines()
    (entry,) = [line for line in lines if line and not line.startswith("#")]
    assert re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", entry)


STARTED = """
import sys
finders = [type(finder).__module__ for finder in sys.meta_path if getattr(finder, "arms_ela_yolo", False)]
print(finders, {name.partition(".")[0] for name in sys.modules} & {"torch", "ultralytics", "ela_yolo"})
"""


def test_a_start_adds_one_finder_and_imports_nothing(installed):
    done = installed.run(STARTED)
    assert done.stdout == "['_ela_yolo_start'] set()\n" and not done.stderr


def test_switched_off(installed):
    done = installed.run(STARTED, env=OFF)
    assert done.stdout == "[] set()\n" and not done.stderr


FAILING = """
import sys
class Finder:
    def __getattr__(self, name): raise RuntimeError(f"no {name}")
    def find_spec(self, name, path=None, target=None): return None
sys.meta_path.insert(0, Finder())
"""


def test_what_fails_at_a_start_prints_a_line(installed):
    """Here the finder of another package. Nothing fails if ELA is switched off, which is looked at first."""
    (installed.inside / "a.py").write_text(FAILING)
    (installed.inside / "a.pth").write_text("import a")
    done = installed.run("print('started')")
    assert done.stdout == "started\n"
    assert {*done.stderr.splitlines()} == {"ela-yolo is off, and ELA rows will not be known: no arms_ela_yolo"}
    assert not installed.run("print('started')", env=OFF).stderr


def test_both_files_and_the_package_add_one_finder(by_start):
    """By hand, for a Python that reads one of them leaves the other out."""
    again = (REPO / "ela_yolo/autoload.pth").read_text()
    done = by_start.run(f"{again}\nimport _ela_yolo_start\n_ela_yolo_start.start()\nimport ela_yolo\n{STARTED}")
    assert done.stdout == "['_ela_yolo_start'] {'ela_yolo'}\n"


def test_the_stock_command_and_a_stock_script(by_start):
    scene = HOME / "datasets/ela-yolo-scenes/images/val/0000.jpg"
    keys = ["model=yolov8n-ela.yaml", f"source={scene}", "imgsz=32", f"project={by_start.folder}"]
    assert "Results saved to" in by_start.run(BIN / "yolo", "predict", *keys).stdout
    code = """
from ultralytics import YOLO
print(sum(type(m).__name__ == "ELA" for m in YOLO("yolov8n-ela.yaml").model.modules()))
"""
    assert by_start.run(code).stdout.endswith("4\n")


PLAIN = "print('started'); from ultralytics import YOLO; print(len(YOLO('yolov8n.yaml').model.model))"


@pytest.mark.parametrize("breakage", [pytest.param("missing", marks=pytest.mark.nightly), "corrupt"])
def test_a_broken_package_never_stops_ultralytics(breakage, installed):
    """The files at the root of site-packages alone, in an environment whose ela_yolo is gone or damaged."""
    (installed.inside / "ela_yolo").rename(installed.inside / "gone")
    if breakage == "corrupt":
        (installed.inside / "ela_yolo").mkdir()
        (installed.inside / "ela_yolo/__init__.py").write_text("def broken(:\n")
    done = installed.run(PLAIN)
    assert done.stdout.splitlines()[0] == "started"
    assert done.stdout.splitlines()[-1] == "23"
    assert done.stderr.startswith("ela-yolo is off, and ELA rows will not be known: ")
    assert done.stderr.count("\n") == 1
