"""The releases of Ultralytics: their files, and where the source changed of what ela-yolo touches.

::

    python tools/releases.py   # downloads each release's wheel at first, 0.4 GB; writes docs/data/releases.csv

Two sources are the same if their syntax trees are, without docstrings, annotations and comments. What moved to another
file counts as changed.
"""

import ast
import csv
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from ela_yolo.host.probes import TESTED

REPO = Path(__file__).parent.parent
FOLDER = REPO / ".venv/releases"
CHANGES = REPO / "docs/data/releases.csv"
LIMIT = 3600  # s, of each process that is started here
TOUCHED = {  # file, below ultralytics/ -> functions, methods and classes; all of the file if none is named
    "cfg/__init__.py": [
        *("check_dict_alignment", "entrypoint", "get_cfg", "merge_equals_args", "parse_key_value_pair", "smart_value"),
    ],
    "data/utils.py": ["check_cls_dataset", "check_det_dataset"],
    "engine/exporter.py": ["export_formats"],
    "engine/model.py": ["Model._load", "Model._new", "Model.load", "Model.save", "Model.train"],
    "engine/trainer.py": [
        *("BaseTrainer._setup_train", "BaseTrainer.build_optimizer", "BaseTrainer.optimizer_step"),
        *("BaseTrainer.resume_training", "BaseTrainer.save_model", "BaseTrainer.setup_model"),
    ],
    "engine/tuner.py": ["Tuner.__call__"],
    "nn/modules/head.py": ["Detect.forward", "Detect.bias_init"],
    "nn/tasks.py": [
        *(
            "BaseModel.fuse",
            "BaseModel.load",
            "DetectionModel.__init__",
            "attempt_load_one_weight",
            "guess_model_scale",
        ),
        *("load_checkpoint", "parse_model", "torch_safe_load", "yaml_model_load"),
    ],
    "optim/muon.py": [],
    "utils/callbacks/base.py": [],
    "utils/checks.py": ["check_file", "check_version", "check_yaml", "check_yolov5u_filename"],
    "utils/dist.py": ["generate_ddp_file"],
    "utils/nms.py": ["non_max_suppression"],
    "utils/ops.py": ["non_max_suppression"],
    "utils/torch_utils.py": ["ModelEMA", "de_parallel", "get_flops", "strip_optimizer", "unwrap_model"],
}


def main() -> int:
    """Write the table."""
    versions = released()
    trees = {version: touched(wheel(version)) for version in versions}
    CHANGES.parent.mkdir(parents=True, exist_ok=True)
    with CHANGES.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["ultralytics", "changed since the release before"])
        for before, version in pairwise(versions):
            changed = [name for name, tree in trees[version].items() if tree != trees[before][name]]
            if changed:
                table.writerow([version, " ".join(changed)])
    print(f"{len(versions)} releases, {versions[0]} to {versions[-1]}; {len(changes())} with a change: {CHANGES}")
    return 0


def released() -> list[str]:
    """Return the versions from the oldest that is supported to the newest, oldest first."""
    index = [sys.executable, "-m", "pip", "index", "versions", "ultralytics"]
    listed = subprocess.run(index, capture_output=True, encoding="utf-8", check=True, timeout=LIMIT).stdout
    versions: list[str] = re.findall(r"Available versions: (.*)", listed)[0].split(", ")[::-1]
    return versions[versions.index(TESTED[0]) :]


def changes() -> list[str]:
    """Return the versions in the table: the source of something that is touched is not that of the release before."""
    with CHANGES.open(encoding="utf-8", newline="") as file:
        return [row["ultralytics"] for row in csv.DictReader(file)]


def wheel(version: str) -> Path:
    """Return the wheel of a release, which is downloaded if it is not there yet."""
    file = FOLDER / f"ultralytics-{version}-py3-none-any.whl"
    if not file.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER)]
        subprocess.run([*command, f"ultralytics=={version}"], check=True, timeout=LIMIT)
    return file


def unpack(version: str) -> Path:
    """Return the folder of a release, to be put first in PYTHONPATH."""
    folder = FOLDER / version
    if not folder.is_dir():
        part = FOLDER / f"{version}-unfinished"
        with zipfile.ZipFile(wheel(version)) as archive:
            archive.extractall(part)
        part.rename(folder)
    return folder


def touched(file: Path) -> dict[str, str]:
    """Return what ela-yolo touches in a wheel: name -> its syntax tree as text, empty if it is not there."""
    found = {}
    with zipfile.ZipFile(file) as archive:
        present = set(archive.namelist())
        for path, names in TOUCHED.items():
            source = archive.read(f"ultralytics/{path}") if f"ultralytics/{path}" in present else b""
            tree = ast.parse(source)
            definitions = dict(_definitions(tree)) if names else {"": tree}
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for name in names or [""]:
                found[f"{module}.{name}".rstrip(".")] = _bare(definitions[name]) if name in definitions else ""
    return found


def _definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            yield from _definitions(node, f"{prefix}{node.name}.")


def _bare(tree: ast.AST) -> str:
    """Return a syntax tree as text, without docstrings and annotations."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


if __name__ == "__main__":
    sys.exit(main())
