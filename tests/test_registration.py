"""What is registered, from where, and in which order of imports."""

import pytest
from conftest import BIN, OFF, REPO, SMALL, forked_python, installation, python, run

from ela_yolo.host.probes import TESTED


def build(row, folder, **kwargs):
    """Build a small model with this row as its layer 2, in a fresh interpreter that imports Ultralytics alone."""
    (folder / "yolov8x-small.yaml").write_text(SMALL.replace("{row}", row))
    code = "from ultralytics import YOLO; print(YOLO('yolov8x-small.yaml').model.model[2])"
    return python(code, cwd=folder, **kwargs)


def test_interpreter_start_loads_nothing(tmp_path):
    seen = python("import sys; print(sorted(sys.modules))", cwd=tmp_path).stdout
    without = python("import sys; print(sorted(sys.modules))", cwd=tmp_path, env=OFF).stdout
    assert seen == without


def test_importing_the_package_loads_neither_torch_nor_ultralytics(tmp_path):
    code = "import ela_yolo, sys; print([m for m in ('torch', 'ultralytics', 'typing') if m in sys.modules])"
    assert python(code, cwd=tmp_path).stdout == "[]\n"


def test_nothing_is_imported_by_hand(tmp_path):
    assert "ELA(\n  160, variant=B, gate=paper" in build("[-1, 1, ELA, []]", tmp_path).stdout


def test_switched_off_ultralytics_is_untouched(tmp_path):
    done = build("[-1, 1, ELA, []]", tmp_path, env=OFF, ok=False)
    assert "KeyError: 'ELA'" in done.stderr
    code = """
import sys
from ultralytics.nn import tasks
assert not hasattr(tasks, "ELA") and "ela_yolo" not in sys.modules
"""
    python(code, cwd=tmp_path, env=OFF)


@pytest.mark.parametrize("order", [("ela_yolo", "ultralytics.nn.tasks"), ("ultralytics.nn.tasks", "ela_yolo")])
@pytest.mark.parametrize("off", [False, True])
def test_the_package_registers_once_before_and_after_ultralytics_or_only_when_told(order, off, tmp_path):
    code = f"""
import {order[0]}, {order[1]}
import importlib, ela_yolo
from ultralytics.nn import tasks
from ultralytics.utils import checks
{"assert not hasattr(tasks, 'ELA'); ela_yolo.register()" if off else ""}
before = tasks.parse_model, checks.check_file, getattr(tasks, "check_file", checks.check_file), tasks.BaseModel.load
assert tasks.ELA is ela_yolo.ELA and before[1] is before[2]
importlib.reload(ela_yolo); ela_yolo.register()
assert (tasks.parse_model, checks.check_file, before[2], tasks.BaseModel.load) == before
"""
    python(code, cwd=tmp_path, env=OFF if off else {})


def test_registering_leaves_the_random_generators_alone(tmp_path):
    code = """
import random, numpy, torch
random.seed(1); numpy.random.seed(1); torch.manual_seed(1)
import ultralytics.nn.tasks
print(random.random(), numpy.random.rand(), torch.rand(1))
"""
    assert python(code, cwd=tmp_path).stdout == python(code, cwd=tmp_path, env=OFF).stdout


def test_the_tested_versions_are_the_declared_ones():
    assert f'"ultralytics>={TESTED[0]}"' in (REPO / "pyproject.toml").read_text()
    assert f"\nultralytics=={TESTED[1]}\n" in (REPO / "constraints.txt").read_text()


def test_reloading_the_parsers_module_registers_again(tmp_path):
    code = """
import importlib
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import checks
first = checks.check_file
importlib.reload(tasks)
assert checks.check_file is first and getattr(tasks, "check_file", first) is first
assert tasks.BaseModel.load.wrapped_by_ela_yolo and tasks.DetectionModel.load.wrapped_by_ela_yolo
print(tasks.parse_model({"backbone": [[-1, 1, "ELA", []]], "head": []}, 3, False)[0][0].channels)
"""
    assert forked_python(code, cwd=tmp_path).stdout == "3\n"


def test_the_layer_table_shows_the_channels_and_not_the_parsers_internals(tmp_path):
    (tmp_path / "yolov8n-small.yaml").write_text(SMALL.replace("{row}", "[0, 1, ELA, [S, identity]]"))
    done = forked_python("from ultralytics import YOLO; YOLO('yolov8n-small.yaml', verbose=True)", cwd=tmp_path)
    row = next(line for line in (done.stdout + done.stderr).splitlines() if "ELA" in line)
    assert row.split() == ["2", "0", "1", "672", "ela_yolo.ela.ELA", "[16,", "'S',", "'identity']"]


def test_bare_names_are_found_from_any_folder(tmp_path):
    code = """
from ultralytics import YOLO
from ultralytics.data.utils import check_file
from ultralytics.utils.checks import check_yaml
model = YOLO("yolov8s-ela.yaml").model
print(model.yaml["scale"], sum(type(m).__name__ == "ELA" for m in model.modules()))
print(check_yaml("scenes.yaml"), check_file("scenes.yaml"), check_file("cfg/scenes.yaml", hard=False))
"""
    printed = forked_python(code, cwd=tmp_path).stdout.splitlines()
    assert printed[-2:] == ["s 4", f"{REPO / 'datasets/scenes.yaml'} {REPO / 'datasets/scenes.yaml'} []"]


def test_a_local_file_of_that_name_wins(tmp_path):
    (tmp_path / "yolov8-ela.yaml").write_text(SMALL.replace("{row}", "[-1, 1, ELA, []]"))
    code = "from ultralytics import YOLO; print(len(YOLO('yolov8n-ela.yaml').model.model))"
    assert forked_python(code, cwd=tmp_path).stdout.endswith("4\n")


def test_a_normal_installation_autoloads_and_carries_the_yamls(wheel, tmp_path):
    """A wheel, unpacked into the site-packages of another environment."""
    inside = installation(tmp_path, wheel)
    (tmp_path / "folder").mkdir()
    interpreter = tmp_path / "env" / BIN.name / "python"
    code = """
import sys, ultralytics.nn.tasks as tasks
from ultralytics.utils.checks import check_yaml
print(sys.modules["ela_yolo"].__file__); print(check_yaml("yolov8-ela.yaml")); print(check_yaml("scenes.yaml"))
print(tasks.ELA(64).channels)
"""
    done = run(interpreter, "-c", code, cwd=tmp_path / "folder")
    installed = inside / "ela_yolo"
    expected = [installed / "__init__.py", installed / "cfg/yolov8-ela.yaml", installed / "datasets/scenes.yaml", 64]
    assert done.stdout.splitlines()[-4:] == [str(line) for line in expected]
    names = {file.name for folder in ("cfg", "datasets") for file in (REPO / folder).glob("*.yaml")}
    assert {file.name for folder in ("cfg", "datasets") for file in (installed / folder).glob("*")} == names
