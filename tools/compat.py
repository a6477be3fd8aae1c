"""Runs the tests on several versions of Ultralytics, and prints a table.

::

    python tools/compat.py                                  # make compat: the versions and checks of the README's table
    python tools/compat.py versions=oldest checks=contract  # what make test adds
    python tools/compat.py versions=all checks=smoke        # one short training on each version of the declared range

A version is laid over the installed one: pip puts it alone into .venv/releases/VERSION, which PYTHONPATH puts first,
and torch and all else are shared. Newer versions than the newest one tested are taken from the registry.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import torch
import torchvision

from ela_yolo.host.probes import TESTED

REPO = Path(__file__).parent.parent
RELEASES = Path(sys.prefix) / "releases"
# Releases at which Ultralytics changed what the plugin touches: its tuner left its children, a scaled YAML is looked up
# by its own name first, IoU is computed otherwise, loading takes class names.
BETWEEN = ("8.4.129", "8.4.144", "8.4.157", "8.4.175")
LIMIT = 2 * 3600  # s, of each process that is started here
FAMILIES = ("yolov8", "yolo11", "yolo12", "yolo26")
CHECKS = {  # column -> tests, by pytest's names
    "contract": ["test_registration.py", "test_cfg.py"],
    "weights": [
        *(f"test_weight_matching.py::test_every_tensor_is_kept_in_its_own_place[{name}n.yaml]" for name in FAMILIES),
        "test_weight_matching.py::test_train_pretrained_carries_and_says_so",
    ],
    "train": [
        "test_end_to_end.py::test_train_learns_the_blocks_weights",
        "test_end_to_end.py::test_a_users_own_yaml_trains_validates_predicts_and_exports",
        "test_training.py::test_every_optimizer_trains_and_leaves_norms_undecayed[auto]",
        "test_training.py::test_every_optimizer_trains_and_leaves_norms_undecayed[MuSGD]",
        "test_learning_rate.py",
    ],
    "tune": ["test_processes.py::test_tune"],
    "DDP": ["test_processes.py::test_the_worker_file_of_ddp_trains_in_a_fresh_interpreter"],
    "resume": ["test_processes.py::test_a_killed_training_resumes"],
    "insert": [
        "test_insert.py::test_an_inserted_identity_detects_what_the_plain_model_does",
        "test_insert.py::test_val_gives_the_same_map",
        "test_insert.py::test_the_stock_commands_take_what_insert_wrote",
    ],
    "export": ["test_formats.py::test_every_task", "test_end_to_end.py::test_quickstart"],
}
SMOKE = f"""
from ultralytics import YOLO, settings
settings.update(datasets_dir={str(RELEASES / "datasets")!r})
model = YOLO("yolov8n-ela.yaml")
model.train(
    data={str(REPO / "datasets/scenes.yaml")!r}, epochs=1, fraction=0.05, imgsz=64, batch=4, nbs=4,
    workers=0, plots=False, val=False,
)
blocks = [m for m in model.trainer.model.modules() if type(m).__name__ == "ELA"]
assert len(blocks) == 4 and all(block.gn.bias.any() for block in blocks)
"""


def main(arguments: list[str]) -> int:
    """Print the table; the exit status is 1 if any cell of it is red."""
    chosen = dict(argument.split("=", 1) for argument in arguments)
    checks = chosen.get("checks", ",".join(CHECKS)).split(",")
    versions = choose_versions(chosen.get("versions"))
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}\n")
    print(f"| ultralytics | {' | '.join(checks)} |\n|---|{'---|' * len(checks)}", flush=True)
    failed = []
    for version in versions:
        overlay = lay_over(version)
        results = smoke(overlay) if checks == ["smoke"] else run_tests(overlay, checks)
        failed += [f"{version}: {line}" for lines in results.values() for line in lines]
        cells = (f"{len(lines)} failed" if lines else "passed" for lines in results.values())
        print(f"| {version} | {' | '.join(cells)} |", flush=True)
    print("\n" + "\n".join(failed))
    return 1 if failed else 0


def choose_versions(names: str | None) -> list[str]:
    """Return the versions that are named, or the oldest, some between and the newest; each once, oldest first."""
    if names == "oldest":
        return [TESTED[0]]
    if names and names != "all":
        return names.split(",")
    index = [sys.executable, "-m", "pip", "index", "versions", "ultralytics"]
    listed = subprocess.run(index, capture_output=True, encoding="utf-8", check=True, timeout=LIMIT).stdout
    released = re.findall(r"Available versions: (.*)", listed)[0].split(", ")[::-1]
    declared = released[released.index(TESTED[0]) :]
    return declared if names else list(dict.fromkeys([TESTED[0], *BETWEEN, TESTED[1], declared[-1]]))


def lay_over(version: str) -> Path:
    """Install this version of Ultralytics alone, if it is not there yet."""
    folder = RELEASES / version
    if not (folder / "ultralytics").is_dir():
        part = folder.with_name(f"{version}-unfinished")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(part)]
        subprocess.run([*install, f"ultralytics=={version}"], check=True, timeout=LIMIT)
        part.rename(folder)
    return folder


def run_tests(overlay: Path, checks: list[str]) -> dict[str, list[str]]:
    """Return check -> what failed."""
    tests = {check: CHECKS[check] for check in checks}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
        command.append(f"--junitxml={report}")
        command += [f"tests/{test}" for named in tests.values() for test in named]
        status, told = run(command, cwd=REPO, env=environment(overlay))
        if not report.is_file():
            return {check: [f"pytest did not run: {status}, {told[-500:]}"] for check in checks}
        cases = list(ElementTree.parse(report).iter("testcase"))
    seen: dict[str, list[tuple[str, bool]]] = {check: [] for check in checks}
    for case in cases:
        name = f"{case.get('classname', '').split('.')[-1]}.py::{case.get('name')}"
        wrong = any(child.tag in ("failure", "error") for child in case)
        for check, named in tests.items():
            if any(name == test or name.startswith((f"{test}::", f"{test}[")) for test in named):
                seen[check].append((name, wrong))
    return {
        check: [name for name, wrong in found if wrong] if found else ["no test ran"] for check, found in seen.items()
    }


def smoke(overlay: Path) -> dict[str, list[str]]:
    """Train for one short epoch by a fresh interpreter that imports Ultralytics alone."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**environment(overlay), "YOLO_CONFIG_DIR": folder}
        command = [sys.executable, "-c", SMOKE]
        status, told = run(command, cwd=folder, env=env)
    return {"smoke": [] if status == 0 else (told.splitlines() or [f"it ended with {status}"])[-1:]}


def run(command: list[str], **kwargs: Any) -> tuple[int | None, str]:
    """Return a process's exit status, None if it did not end in time, and what it told on its standard error."""
    try:
        keys: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
        done = subprocess.run(command, **keys, **kwargs, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return None, f"it did not end within {LIMIT} s"
    return done.returncode, done.stderr.strip()


def environment(overlay: Path) -> dict[str, str]:
    """Return the environment of a process that finds this version of Ultralytics first, and fetches nothing."""
    return {**os.environ, "PYTHONPATH": str(overlay), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
