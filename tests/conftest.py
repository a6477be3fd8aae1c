"""A home, one training and one export for all workers of a run, and the processes that tests start."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock
from forkserver import Server
from hypothesis import Phase, settings

REPO = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SHARED = REPO.parent / "shared"  # real photographs and weights, where they are
WORKER = os.environ.get("PYTEST_XDIST_WORKER")

# The first process makes a folder of the run; the workers of pytest-xdist find it by the variable.
if WORKER is None or "ELA_YOLO_TESTS" not in os.environ:
    _run = tempfile.TemporaryDirectory(prefix="ela-yolo-tests-")
    os.environ["ELA_YOLO_TESTS"] = _run.name
RUN = Path(os.environ["ELA_YOLO_TESTS"])
# Each worker has a copy of the same: Ultralytics writes caches into data sets, which two may not do at once.
HOME = RUN / (WORKER or "main")

FEW = HOME / "few.yaml"  # the scenes, of which eight are validated on: for trainings whose figures do not matter

# Before anything imports Ultralytics: nothing is installed or fetched at run time, nobody's settings are touched.
os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_CONFIG_DIR=str(HOME / "config"))
os.environ.pop("ELA_YOLO_AUTOLOAD", None)
if WORKER:  # as many processes as cores already
    os.environ["OMP_NUM_THREADS"] = "1"
AT_START = dict(os.environ)
OFF = {"ELA_YOLO_AUTOLOAD": "0"}  # without the plugin

SMALL = """
nc: 3
scales:
  n: [0.33, 0.25, 1024]
  x: [1.0, 1.25, 512]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, C2f, [128]]
  - {row}
head:
  - [[2], 1, Detect, [nc]]
"""  # a model around one row; at scale x, the row reads 160 channels

# The same examples in every run, and no long search for the smallest that fails. `pytest --hypothesis-profile=search`
# looks for others.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
settings.register_profile("same", derandomize=True, deadline=None, phases=PHASES)
settings.register_profile("search", deadline=None, phases=PHASES)
settings.load_profile("same")


# Processes


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
    return succeeded(done, command) if ok else done


def succeeded(done, command):
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def python(code, *, cwd, **kwargs):
    """Run Python code in a fresh interpreter."""
    return run(sys.executable, "-c", code, cwd=cwd, **kwargs)


def forked(*command, cwd, env=None, ok=True, timeout=300):
    """As `run`, in a child of a process that has imported Ultralytics: where an interpreter's start is not the subject.

    The command is `yolo`, `ela-yolo` or `python -c`. Where processes cannot be forked so, it is run in a fresh one.
    """
    whole = {**os.environ, **(env or {})}
    server = server_for(whole)
    if server is None:
        return run(*command, cwd=cwd, env=env, ok=ok, timeout=timeout)
    program, *arguments = (str(part) for part in command)
    if program == sys.executable and arguments[0] == "-c":
        code, argv, path = arguments[1], ["-c", *arguments[2:]], ""
    else:
        assert program in (str(BIN / "yolo"), str(BIN / "ela-yolo")), f"{program} needs a process of its own"
        code, argv, path = Path(program).read_text(encoding="utf-8"), [program, *arguments], str(BIN)
    done = server.run(code, argv, path=path, cwd=cwd, env=whole, timeout=timeout)
    return succeeded(done, command) if ok else done


def forked_python(code, *, cwd, **kwargs):
    """As `python`, in a child of a process that has imported Ultralytics."""
    return forked(sys.executable, "-c", code, cwd=cwd, **kwargs)


SERVERS = {}
# What is read as an interpreter starts or as Ultralytics is imported. A server has it from AT_START.
READ_AT_START = (
    *("HOME", "USER", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONDEVMODE", "TORCH_HOME", "ULTRALYTICS_SAFE_LOAD"),
    *("YOLO_CONFIG_DIR", "YOLO_OFFLINE", "YOLO_AUTOINSTALL"),
)


def server_for(env):
    """The server whose children are as fresh interpreters are in this environment: with the plugin, or without."""
    import torch

    if sys.platform != "linux" or torch.cuda.is_available():  # what is set up of CUDA does not outlive a fork
        return None
    if any(env.get(name) != AT_START.get(name) for name in READ_AT_START):
        return None
    autoload = {name: env[name] for name in ("ELA_YOLO_AUTOLOAD",) if name in env}
    key = str(autoload)
    if key not in SERVERS:
        SERVERS[key] = Server(RUN, {**AT_START, **autoload})
    return SERVERS[key]


def environment(folder):
    """The site-packages of a fresh environment that sees Ultralytics but not this clone."""
    run(BIN / "python", "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    inside = next((folder / "env").glob("[Ll]ib*/**/site-packages"))
    original = python("import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout
    (inside / "zz-ultralytics.pth").write_text(original)  # a path only: .pth files found there are not run
    return inside


def installation(folder, wheel):
    """The site-packages of such an environment, with a wheel unpacked into it."""
    inside = environment(folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(inside)
    return inside


# What is made once in a run


def once(name, make):
    """What `make(folder)` returns, made by the process that asks first; who asks later gets it, or why it failed."""
    folder, record = RUN / name, RUN / f"{name}.json"
    with FileLock(RUN / f"{name}.lock"):
        if not record.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
            folder.mkdir()
            try:
                told = {"made": make(folder)}
            except Exception:
                told = {"failed": traceback.format_exc()}
            record.write_text(json.dumps(told, default=str), encoding="utf-8")
    told = json.loads(record.read_text(encoding="utf-8"))
    if "failed" in told:
        pytest.fail(f"{name}, which all workers share, could not be made:\n{told['failed']}", pytrace=False)
    return told["made"]


def pytest_configure(config):
    """Data sets and runs of Ultralytics go to the tests' own folder; set before a test module imports Ultralytics."""
    if config.getoption("dist", "no") != "no" and WORKER is None:
        return  # it runs no test itself
    home = Path(once("home", lay_out))
    shutil.copytree(home, HOME)
    (file,) = HOME.glob("config/**/settings.json")
    file.write_text(file.read_text(encoding="utf-8").replace(str(home), str(HOME)), encoding="utf-8")
    scenes = HOME / "datasets/ela-yolo-scenes"
    (scenes / "few.txt").write_text("".join(f"./images/val/000{n}.jpg\n" for n in range(8)), encoding="utf-8")
    text = (REPO / "datasets/scenes.yaml").read_text(encoding="utf-8")
    text = text.replace("path: ela-yolo-scenes", f"path: {scenes.as_posix()}").replace(
        "val: images/val", "val: few.txt"
    )
    FEW.write_text(text.partition("download:")[0], encoding="utf-8")


def pytest_collection_modifyitems(items):
    """What needs the training comes first: one worker trains, and the others have something else to do meanwhile."""
    items.sort(key=lambda item: "trained" not in getattr(item, "fixturenames", ()))


def lay_out(home):
    """Ultralytics' settings, and the scenes, which are rendered meanwhile.

    Without the callbacks for Ray, which is imported for them at every training and takes longer than a short one.
    """
    env = {**os.environ, "YOLO_CONFIG_DIR": str(home / "config")}
    (home / "config").mkdir()
    render = "import sys; from ela_yolo.data.scenes import render; render(sys.argv[1])"
    with subprocess.Popen([sys.executable, "-c", render, home / "datasets/ela-yolo-scenes"], env=env) as rendering:
        places = (f"datasets_dir={home / 'datasets'}", f"runs_dir={home / 'runs'}")
        run(BIN / "yolo", "settings", *places, "raytune=False", cwd=home, env=env)
    assert rendering.returncode == 0
    return home


@pytest.fixture(scope="session")
def wheel():
    """The wheel of this clone."""

    def make(folder):
        command = [BIN / "python", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", REPO]
        run(*command, "--wheel-dir", folder, cwd=folder)
        return next(folder.glob("*.whl"))

    return Path(once("wheel", make))


@pytest.fixture
def raytune():
    """The callbacks for Ray, as they are by default."""
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'ela-yolo[ray]'")
    from ultralytics.utils import SETTINGS_FILE as file  # older releases, which some tests run, have another

    text = file.read_text(encoding="utf-8")
    assert '"raytune": false' in text
    file.write_text(text.replace('"raytune": false', '"raytune": true'), encoding="utf-8")
    yield
    file.write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def trained():
    """A run folder of the stock command: one epoch on a tenth of the scenes, of yolov8n-ela.yaml in the paper's form.

    In that form every block does something from the first step, so a file with a wrong one differs.
    """

    def make(folder):
        forked(BIN / "ela-yolo", "insert", "model=yolov8n.yaml", "gate=paper", "save=yolov8n-paper.yaml", cwd=folder)
        return train(folder, "model=yolov8n-paper.yaml epochs=1 fraction=0.1 imgsz=128 batch=8 nbs=8")

    return Path(once("trained", make))


@pytest.fixture(scope="session")
def retrained(trained):
    """Three epochs more from those weights: enough for the outputs to depend on the image."""
    recipe = "epochs=3 imgsz=96 batch=4 nbs=4 optimizer=AdamW lr0=0.002 warmup_epochs=0 mosaic=0 close_mosaic=0"
    return Path(once("retrained", lambda folder: train(folder, f"model={trained}/weights/best.pt {recipe}")))


@pytest.fixture(scope="session")
def plain(retrained):
    """That detector without ELA."""

    def make(folder):
        import ela_yolo

        ela_yolo.remove(retrained / "weights/best.pt", save=folder / "plain.pt")
        return folder / "plain.pt"

    return Path(once("plain", make))


@pytest.fixture(scope="session")
def sure(retrained):
    """That detector, made sure enough of itself to detect several objects in every image."""

    def make(folder):
        import torch
        from ultralytics import YOLO

        model = YOLO(retrained / "weights/best.pt")
        with torch.no_grad():
            for branch in model.model.model[-1].cv3:
                branch[-1].bias += 4
        model.save(folder / "sure.pt")
        return folder / "sure.pt"

    return Path(once("sure", make))


@pytest.fixture(scope="session")
def exported(retrained):
    """(weights, file, what the command printed): exported and compared by the installed command."""

    def make(folder):
        shutil.copy(retrained / "weights/best.pt", folder)
        return run(BIN / "ela-yolo", "export", "model=best.pt", "format=onnx", "imgsz=96", cwd=folder).stdout

    printed = once("exported", make)
    return RUN / "exported/best.pt", RUN / "exported/best.onnx", printed


@pytest.fixture(scope="session")
def photographs():
    """The YAML of a data set of real photographs: some of those of blood cells, copied where one may write caches."""
    source, folder = SHARED / "data/bccd", HOME / "photographs"
    if not source.is_dir():
        pytest.skip(f"no photographs: {source} is absent")
    for split, count in (("train", 80), ("val", 16)):
        for image in sorted((source / "images" / split).glob("*.jpg"))[:count]:
            for file in (image, source / "labels" / split / f"{image.stem}.txt"):
                target = folder / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    return Path(shutil.copy(source / "bccd.yaml", folder))


def train(folder, keys):
    command = [BIN / "yolo", "train", "data=scenes.yaml", *keys.split(), "workers=0", "plots=False"]
    forked(*command, f"project={folder}", "name=run", cwd=folder)
    return folder / "run"
