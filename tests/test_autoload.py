"""The finder that waits for Ultralytics' parser, beside other import machinery."""

import zipfile
from pathlib import Path

from conftest import OFF, REPO, python


def test_the_parsers_module_has_its_own_loader_before_and_after_it_ran(tmp_path):
    code = """
import importlib.util, inspect
spec = importlib.util.find_spec("ultralytics.nn.tasks")
print(spec.loader.is_package("ultralytics.nn.tasks"), "def parse_model" in spec.loader.get_source(spec.name))
print(len(spec.loader.get_data(spec.origin)) > 0)
import ultralytics.nn.tasks as tasks
print(type(tasks.__loader__).__name__, tasks.__spec__.loader is tasks.__loader__, tasks.ELA.__name__)
print("def parse_model" in inspect.getsource(tasks), tasks.__loader__.get_data(tasks.__file__)[:1])
"""
    printed = python(code, cwd=tmp_path).stdout.splitlines()
    assert printed == ["False True", "True", "SourceFileLoader True ELA", "True b'#'"]


SHARED = """
import sys
import _ela_yolo_start, ela_yolo.start
sys.path.insert(0, "modules.zip")
said = []
_ela_yolo_start._register = ela_yolo.start._register = lambda: said.append("registered")
import ultralytics.nn
import ultralytics.nn.tasks as tasks
import ultralytics.nn.other as other
import inspect, zipimport
print(said, type(tasks.__loader__) is zipimport.zipimporter, tasks.__loader__ is tasks.__spec__.loader, other.y)
print("exec_module" in dir(tasks.__loader__), "exec_module" in vars(tasks.__loader__), inspect.getsource(tasks).strip())
"""


def test_a_loader_that_other_modules_share_is_left_as_it_is(tmp_path):
    """A zip has one loader for all its modules of a folder, so what is patched there is run for each of them."""
    with zipfile.ZipFile(tmp_path / "modules.zip", "w") as archive:
        for name, text in {"__init__": "", "nn/__init__": "", "nn/tasks": "x = 1", "nn/other": "y = 2"}.items():
            archive.writestr(f"ultralytics/{name}.py", text)
    printed = python(SHARED, cwd=tmp_path).stdout.splitlines()
    assert printed == ["['registered'] True True 2", "True False x = 1"]


def test_the_package_works_inside_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "ela.zip", "w") as archive:
        for file in sorted((REPO / "ela_yolo").rglob("*.py")):
            archive.write(file, str(file.relative_to(REPO)))
    code = """
import ela_yolo
from ultralytics.nn import tasks
ela_yolo.register()
print("ela.zip" in ela_yolo.__file__)
print(tasks.parse_model({"backbone": [[-1, 1, "ELA", []]], "head": []}, 3, False)[0][0].channels)
"""
    done = python(code, cwd=tmp_path, env={**OFF, "PYTHONPATH": str(Path(tmp_path / "ela.zip"))})
    assert done.stdout.splitlines()[-2:] == ["True", "3"] and not done.stderr
