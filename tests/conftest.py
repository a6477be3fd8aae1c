"""Fresh interpreters, a private configuration folder for Ultralytics, and one short training that many tests share."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, settings

REPO = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SHARED = REPO.parent / "shared"  # real photographs and weights, where they are

# Before anything imports Ultralytics: nothing is installed or fetched at run time, nobody's settings are touched.
_home = tempfile.TemporaryDirectory(prefix="ela-yolo-tests-")
HOME = Path(_home.name)
os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_CONFIG_DIR=str(HOME / "config"))
os.environ.pop("ELA_YOLO_AUTOLOAD", None)
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores already
    os.environ["OMP_NUM_THREADS"] = "1"
(HOME / "config").mkdir()


# The same examples in every run, and no long search for the smallest that fails. `pytest --hypothesis-profile=search`
# looks for others.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
settings.register_profile("same", derandomize=True, deadline=None, phases=PHASES)
settings.register_profile("search", deadline=None, phases=PHASES)
settings.load_profile("same")


def run(*command, cwd, env=None, ok=True, timeout=300):
    """Run a command in a fresh process; unless `ok` is False it must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if ok:
        assert done.returncode == 0, (
            f"{command} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
    return done


def python(code, *, cwd, **kwargs):
    """Run Python code in a fresh interpreter."""
    return run(sys.executable, "-c", code, cwd=cwd, **kwargs)


def environment(folder):
    """The site-packages of a fresh environment that sees Ultralytics but not this clone."""
    run(BIN / "python", "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    inside = next((folder / "env").glob("[Ll]ib*/**/site-packages"))
    original = python("import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout
    (inside / "zz-ultralytics.pth").write_text(original)  # a path only: .pth files found there are not run
    return inside


def pytest_configure():
    """Data sets and runs of Ultralytics go to the tests' own folder; set before a test module imports Ultralytics."""
    run(BIN / "yolo", "settings", f"datasets_dir={HOME / 'datasets'}", f"runs_dir={HOME / 'runs'}", cwd=HOME)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder of the stock command: one epoch on a tenth of the scenes, of yolov8n-ela.yaml in the paper's form.

    In that form every block does something from the first step, so a file with a wrong one differs.
    """
    folder = tmp_path_factory.mktemp("trained")
    run(BIN / "ela-yolo", "insert", "model=yolov8n.yaml", "gate=paper", cwd=folder)
    return train(folder, "model=yolov8n-ela.yaml epochs=1 fraction=0.1 imgsz=128 batch=8 nbs=8")


@pytest.fixture(scope="session")
def retrained(trained, tmp_path_factory):
    """Three epochs more from those weights: enough for the outputs to depend on the image."""
    recipe = "epochs=3 imgsz=96 batch=4 nbs=4 optimizer=AdamW lr0=0.002 warmup_epochs=0 mosaic=0 close_mosaic=0"
    return train(tmp_path_factory.mktemp("retrained"), f"model={trained}/weights/best.pt {recipe}")


def train(folder, keys):
    command = [BIN / "yolo", "train", "data=scenes.yaml", *keys.split(), "workers=0", "plots=False"]
    run(*command, f"project={folder}", "name=run", cwd=folder)
    return folder / "run"
