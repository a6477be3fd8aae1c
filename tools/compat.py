"""Runs the tests on several versions of Ultralytics, and prints a table.

::

    python tools/compat.py                                  # the versions and checks of the README's table
    python tools/compat.py versions=oldest checks=contract  # what make test adds; and there is versions=newest
    python tools/compat.py versions=changes checks=smoke    # one short training at each change, and each tenth release

A version is laid over the installed one: it lies alone in .venv/releases/VERSION, which PYTHONPATH puts first, and
torch and all else are shared. ``make compat`` runs this in two environments: today's, and one of the time of the oldest
versions. The results of short trainings are kept in docs/data/smoke.csv, and those that passed are not run again.
"""

import csv
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import torch
from releases import FOLDER, LIMIT, REPO, changes, released, unpack

from ela_yolo.host.probes import TESTED

KEPT = REPO / "docs/data/smoke.csv"
HERE = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
IS_PERIOD = HERE["numpy"] < "2"  # whether this is the environment of the time of the oldest versions
WITHOUT_TRAPZ = "8.3.108"  # older releases call it, and NumPy 2.4 does not have it
PERIOD = ("8.3.0", "8.3.40", "8.3.100", "8.3.163")
# Among them are releases at which Ultralytics changed what the plugin touches: at 8.4.0 MuSGD came, at 8.4.108 it took
# matrices only, at 8.4.144 a scaled YAML is looked up by its own name first, at 8.4.175 loading takes class names.
TODAY = ("8.3.253", "8.4.0", "8.4.60", "8.4.90", "8.4.108", "8.4.144", "8.4.175", TESTED[1])
FAMILIES = ("yolov8", "yolo11", "yolo12", "yolo26")
CHECKS = {  # column -> tests, by pytest's names
    "contract": ["test_registration.py", "test_unexpected_hosts.py", "test_rows.py", "test_cfg.py"],
    "weights": [
        *(f"test_weight_matching.py::test_every_tensor_is_kept_in_its_own_place[{name}n.yaml]" for name in FAMILIES),
        "test_weight_matching.py::test_train_pretrained_carries_and_says_so",
    ],
    "train": [
        "test_end_to_end.py::test_train_learns_the_blocks_weights",
        "test_end_to_end.py::test_a_users_own_yaml_is_inserted_into_and_trains_at_the_scale_of_its_name",
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
    "export": [
        "test_formats.py::test_every_task",
        "test_end_to_end.py::test_stock_export_runs_in_onnx_runtime_through_ultralytics",
    ],
    "attention": [
        "test_ablation.py::test_the_block_that_tells_the_classes_apart_is_needed_and_the_other_is_not",
        "test_ablation.py::test_other_blocks_are_replaced_by_their_mean_factor",
        "test_ablation.py::test_other_tasks_have_intervals_too",
        "test_ablation.py::test_a_classifier_has_no_interval",
        "test_attention.py",
        "test_capture.py",
    ],
    "compare": ["test_compare.py::test_what_a_comparison_leaves", "test_scoring.py"],
    "profile": ["test_profile.py"],
}
SMOKE = f"""
from ultralytics import YOLO, settings
settings.update(datasets_dir={str(FOLDER / "datasets")!r}, raytune=False)  # Ray 2.60 does not fit the oldest
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
    if checks == ["smoke"]:
        return 1 if [version for version in versions if not smoke(version)] else 0
    print(f"Python {HERE['python']}\n")
    print(f"| ultralytics | torch | NumPy | {' | '.join(checks)} |\n|---|---|---|{'---|' * len(checks)}", flush=True)
    failed = []
    for version in versions:
        results = run_tests(unpack(version), checks)
        failed += [f"{version}: {line}" for lines in results.values() if lines for line in lines]
        cells = ("-" if lines is None else f"{len(lines)} failed" if lines else "passed" for lines in results.values())
        print(f"| {version} | {HERE['torch']} | {HERE['numpy']} | {' | '.join(cells)} |", flush=True)
    print("\n" + "\n".join(failed))
    return 1 if failed else 0


def choose_versions(names: str | None) -> list[str]:
    """Return the versions that are named, or those of the table in this environment; each once, oldest first."""
    if names in ("oldest", "newest"):
        return [TESTED[0] if names == "oldest" else released()[-1]]
    if names == "changes":
        versions, changed = released(), changes()
        some = [version for i, version in enumerate(versions) if version in changed or i % 10 == 0]
        first = versions.index(WITHOUT_TRAPZ)
        return [version for version in some if (versions.index(version) < first) == IS_PERIOD]
    if names:
        return names.split(",")
    return [*PERIOD] if IS_PERIOD else list(dict.fromkeys([*TODAY, released()[-1]]))


def run_tests(overlay: Path, checks: list[str]) -> dict[str, list[str] | None]:
    """Return check -> what failed; None where this version has nothing to test."""
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
    seen: dict[str, list[tuple[str, str]]] = {check: [] for check in checks}
    for case in cases:
        name = f"{case.get('classname', '').split('.')[-1]}.py::{case.get('name')}"
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "")
        for check, named in tests.items():
            if any(name == test or name.startswith((f"{test}::", f"{test}[")) for test in named):
                seen[check].append((name, outcome))
    return {check: _failed(found) for check, found in seen.items()}


def _failed(found: list[tuple[str, str]]) -> list[str] | None:
    if found and all(outcome == "skipped" for _, outcome in found):
        return None
    return [name for name, outcome in found if outcome in ("failure", "error")] if found else ["no test ran"]


def smoke(version: str) -> bool:
    """Train for one short epoch by a fresh interpreter that imports Ultralytics alone; return whether it passed.

    The result becomes a line of docs/data/smoke.csv. A version that passed in this environment is not run again.
    """
    rows = []
    if KEPT.is_file():
        with KEPT.open(encoding="utf-8", newline="") as file:
            rows = [*csv.DictReader(file)]
    key = {"ultralytics": version, **HERE}
    if any(row["result"] == "passed" and row.items() >= key.items() for row in rows):
        return True
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        env = {**environment(unpack(version)), "YOLO_CONFIG_DIR": folder}
        status, told = run([sys.executable, "-c", SMOKE], cwd=folder, env=env)
    result = "passed" if status == 0 else (told.splitlines() or [f"it ended with {status}"])[-1]
    rows = [row for row in rows if not row.items() >= key.items()]
    rows.append({**key, "result": result, "seconds": f"{time.monotonic() - start:.0f}"})
    rows.sort(key=lambda row: [*map(int, row["ultralytics"].split("."))])
    part = KEPT.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [*rows[-1]], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    part.replace(KEPT)
    print(f"{version}: {result}", flush=True)
    return result == "passed"


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
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(overlay), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    return {**os.environ, **own}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
