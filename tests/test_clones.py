"""A clone with Ultralytics' source in the working folder, changed as forks change it, is used and knows ELA."""

import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import ultralytics
from conftest import BIN, FEW, REPO, once, run

sys.path.insert(0, str(REPO / "tools"))
from releases import unpack

VERSION = "8.3.163"
OURS = Path(ultralytics.__file__).parent
# A module of its own, which the parser counts among those with channels and repeats, and other signatures.
MODULE = '''
from ultralytics.nn.modules import C2f

class ForkStage(C2f):
    """Stands for C2f."""
'''
CHANGES = [
    (r"(?m)^from ultralytics\.nn\.modules import \(", r"from ultralytics.nn.fork import ForkStage\n\g<0>"),
    (r"            C2fPSA,\n", r"            C2fPSA,\n            ForkStage,\n"),
    (r"def parse_model\(d, ch, verbose=True\):", "def parse_model(d, ch, verbose=True, warehouse=None):"),
    (r"def load\(self, weights, verbose=True\):", "def load(self, weights, verbose=True, *, strict=False):"),
]
SLICE = f"data={str(FEW)!r}, fraction=0.05, imgsz=64, batch=4, nbs=4, workers=0, plots=False"
BEGIN = f"""
import os, signal, sys
import ela_yolo, ultralytics
from ultralytics import YOLO

def die(trainer):
    if trainer.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

print(ela_yolo.insert("yolov8n-forked.yaml", save="yolov8-forked-ela.yaml").rows, ultralytics.__file__, flush=True)
model = YOLO("yolov8n-forked-ela.yaml")
model.add_callback("on_train_batch_end", die)
model.train(epochs=2, {SLICE}, project="runs", name="run")
"""
GO_ON = f"""
import ela_yolo, ultralytics
from ultralytics import YOLO

YOLO("runs/run/weights/last.pt").train(resume=True)
model = YOLO("runs/run/weights/best.pt")
model.val(data={str(FEW)!r}, imgsz=64, workers=0, plots=False, project="runs")
report = ela_yolo.export("runs/run/weights/best.pt", format="torchscript", imgsz=64)
print(report.runtime["ultralytics"], [part.max_error < part.tolerance for part in report.outputs])
print(sorted({{type(module).__name__ for module in model.model.model}} & {{"ELA", "ForkStage"}}), ultralytics.__file__)
"""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The working folder: an old release's source, changed, and a model YAML with the fork's module."""

    def make(folder):
        source = unpack(VERSION) / "ultralytics"
        shutil.copytree(source, folder / "ultralytics", ignore=shutil.ignore_patterns("__pycache__"))

    try:
        once("clone", make)
    except pytest.fail.Exception as error:
        pytest.skip(f"Ultralytics {VERSION} is not to be had: {str(error)[-200:]}")
    from conftest import RUN

    shutil.copytree(RUN / "clone/ultralytics", tmp_path / "ultralytics")
    (tmp_path / "ultralytics/nn/fork.py").write_text(MODULE)
    tasks = tmp_path / "ultralytics/nn/tasks.py"
    text = tasks.read_text(encoding="utf-8")
    for pattern, replacement in CHANGES:
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    tasks.write_text(text, encoding="utf-8")
    original = (OURS / "cfg/models/v8/yolov8.yaml").read_text(encoding="utf-8")
    (tmp_path / "yolov8-forked.yaml").write_text(original.replace("C2f", "ForkStage"), encoding="utf-8")
    (tmp_path / "config").mkdir()  # or it would write its own settings over those of this Ultralytics
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


def test_a_clone_inserts_trains_resumes_validates_and_exports(clone):
    """Not to ONNX, for which so old a release needs an older PyTorch."""
    local = str(clone / "ultralytics/__init__.py")
    killed = run(sys.executable, "-c", BEGIN, cwd=clone, ok=False)
    assert killed.returncode == -signal.SIGKILL
    assert f"(3, 6, 9, 12) {local}" in killed.stdout.splitlines()
    *_, exported, looked_at = run(sys.executable, "-c", GO_ON, cwd=clone).stdout.splitlines()
    assert exported == f"{VERSION} [True, True]"
    assert looked_at == f"['ELA', 'ForkStage'] {local}"


def test_doctor_names_the_copy_that_is_used(clone):
    """By python in the clone this is the local one, by the command's script the installed one."""
    env = {"PATH": f"{BIN}:/usr/bin:/bin"}
    here = run(sys.executable, "-m", "ela_yolo", "doctor", "model=yolov8n-forked.yaml", cwd=clone, env=env)
    assert f"ok     ultralytics               {VERSION}, the local copy {clone / 'ultralytics'} is used" in here.stdout
    assert here.stdout.endswith("all is well\n")
    script = run(BIN / "ela-yolo", "doctor", cwd=clone, env=env)
    assert f"`python` in this folder uses {clone / 'ultralytics'}: python -m ela_yolo doctor" in script.stdout


@pytest.mark.nightly  # as for an installed copy
def test_doctor_says_of_a_changed_copy_what_to_do(clone):
    tasks = clone / "ultralytics/nn/tasks.py"
    tasks.write_text(
        tasks.read_text(encoding="utf-8").replace("def parse_model(d, ch,", "def parse_model(d, channels,")
    )
    done = run(sys.executable, "-m", "ela_yolo", "doctor", cwd=clone, ok=False)
    assert done.returncode == 1
    assert f"so the local copy {clone / 'ultralytics'} was changed: change that back, or run outside" in done.stdout


SAME = """
import sys
from ela_yolo.study.worker import _import_ultralytics
_import_ultralytics(sys.argv[1])
from ultralytics.utils import ROOT
print(ROOT)
"""


def test_the_runs_of_a_comparison_use_the_commands_copy(clone):
    """Their interpreters start in the user's folder, where a clone has its own."""
    assert run(sys.executable, "-c", SAME, OURS.parent, cwd=clone).stdout.splitlines()[-1] == str(OURS)
    assert run(sys.executable, "-c", SAME, clone, cwd=clone).stdout.splitlines()[-1] == str(clone / "ultralytics")
