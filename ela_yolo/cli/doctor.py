"""What is installed, what is registered, and what is wrong: ``ela-yolo doctor``."""

from __future__ import annotations

import os
import platform
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ela_yolo.cli.keys import Command, Key, UsageError
from ela_yolo.errors import ELAError, InputError
from ela_yolo.util.copies import installed_folder, loaded_folders
from ela_yolo.util.fresh_interpreter import run_isolated
from ela_yolo.util.text import one_line

PYTHON = sys.version_info[:2]
PATIENCE = 60  # s
PIP = f"{sys.executable} -m pip install"
AGAIN = f"in the clone of ela-yolo: {PIP} --force-reinstall --no-deps ."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What.
        state: How it is.
        remedy: What to do about it; None if all is well.
    """

    subject: str
    state: str
    remedy: str | None = None

    def __str__(self) -> str:
        line = f"{'ok' if self.remedy is None else 'WRONG':7}{self.subject:24}  {self.state}"
        return line if self.remedy is None else f"{line}\n{'':7}-> {self.remedy}"


@dataclass(frozen=True)
class Diagnosis:
    """All findings; printed, a line for each and one for the sum."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.remedy is None for finding in self.findings)

    def __str__(self) -> str:
        wrong = sum(finding.remedy is not None for finding in self.findings)
        return "\n".join([*map(str, self.findings), "all is well" if self.healthy else f"{wrong} wrong"])


def examine(model: str | None = None, weights: str | None = None) -> Diagnosis:
    """Look at the installation and, where they are named, at a model and at what of weights it takes over.

    Args:
        model: A model YAML or a checkpoint, by the name that a command would be given.
        weights: A checkpoint or a model YAML to take weights from.
    """
    packages = [
        _package("ela-yolo", "ela_yolo"),
        _package("torch", "torch"),
        _package("torchvision", "torchvision"),
        _package("ultralytics", "ultralytics"),
    ]
    findings = [Finding("Python", f"{platform.python_version()}, {sys.executable}"), *packages]
    whole = all(package.remedy is None for package in packages)
    findings += [_autoload(), _yolo_command()]
    if whole:
        findings += [*_blocks(), *_registration()]
        if model is not None and findings[-1].remedy is None:
            findings += _model(model, weights)
    return Diagnosis(tuple(findings))


def _package(name: str, module: str) -> Finding:
    pair = f"{PIP} --force-reinstall torch torchvision, which takes two that fit"
    remedy = {"ela_yolo": AGAIN, "torchvision": pair}.get(module, f"{PIP} --force-reinstall {name}")
    try:
        imported = import_module(module)
        version, found = imported.__version__, Path(str(imported.__file__)).parent
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        state = "is not installed" if missing == module else f"cannot be imported, for {missing} is not installed"
        return Finding(name, state, f"{PIP} {missing.replace('cv2', 'opencv-python')}")
    except Exception as error:  # a broken installation fails in its own ways
        if "libGL" in str(error):
            remedy = f"{PIP} opencv-python-headless, or install libGL (libgl1) on this machine"
        return Finding(name, f"cannot be imported: {type(error).__name__}: {one_line(error)}", remedy)
    if module == "ultralytics":
        return Finding(name, f"{version}, {_which_copy(found)}")
    beside = installed_folder(name, module)
    if beside is not None and beside.resolve() != found.resolve():
        hidden = f"{found} hides the installed {beside}"
        return Finding(name, hidden, "rename that folder, or run in another one; PYTHONPATH may name it too")
    return Finding(name, f"{version}, {found}")


def _which_copy(found: Path) -> str:
    """Name the copy of Ultralytics that is used, and others that other commands may use: clones have one in them."""
    beside = installed_folder("ultralytics", "ultralytics")
    here = Path.cwd() / "ultralytics"
    if beside is not None and beside.resolve() != found.resolve():
        return f"the local copy {found} is used, and not the installed {beside}"
    if (here / "__init__.py").is_file() and here.resolve() != found.resolve():
        return f"{found}; `python` in this folder uses {here}: python -m ela_yolo doctor looks at that"
    return str(found)


def _autoload() -> Finding:
    """Start an interpreter as others do, and ask it; in an empty folder, so that it imports nothing of this one."""
    subject = "a new process"
    if os.environ.get("ELA_YOLO_AUTOLOAD") == "0":
        return Finding(subject, "does not know ELA: switched off by ELA_YOLO_AUTOLOAD=0", "unset ELA_YOLO_AUTOLOAD")
    code = (
        "import sys; print(any(getattr(finder, 'arms_ela_yolo', False) for finder in sys.meta_path)); "
        "from _ela_yolo_start import start"  # so that it says what is wrong with that
    )
    try:
        asked = run_isolated(code, seconds=PATIENCE)
    except subprocess.TimeoutExpired:
        remedy = (
            "look at sitecustomize and the .pth and .start files of site-packages, which Python runs at every start"
        )
        return Finding(subject, f"does not start within {PATIENCE} s", remedy)
    file = _startup_file()
    if asked.stdout.strip() == "True":
        notebook = "; a notebook that ran before the installation does after %load_ext ela_yolo"
        by = f", by {file}" if file else ""
        return Finding(subject, "knows ELA" + by + (notebook if "JPY_PARENT_PID" in os.environ else ""))
    if file is None:
        return Finding(subject, f"does not know ELA: {_startup_names()[0]} is not in site-packages", AGAIN)
    why = asked.stderr.strip().splitlines() or ["Python did not run it"]
    return Finding(subject, f"does not know ELA, though {file} is there: {why[-1]}", AGAIN)


def _startup_names() -> list[str]:
    """Name the files by which this Python learns of ELA; the first that is there wins (PEP 829)."""
    return ["ela_yolo.start"] * (PYTHON >= (3, 15)) + ["ela_yolo.pth"] * (PYTHON < (3, 18))


def _startup_file() -> Path | None:
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    places = (Path(folder) / name for folder in folders for name in _startup_names())
    return next((place for place in places if place.is_file()), None)


def _yolo_command() -> Finding:
    subject = "the command yolo"
    command = shutil.which("yolo")
    if command is None:
        return Finding(subject, "is not on the PATH; activate this environment to have it")
    first, second = [*Path(command).read_bytes()[:2000].decode(errors="replace").splitlines(), "", ""][:2]
    # A long path, or one with spaces, stands in the second line, behind a shell's exec.
    named = re.match(r"#!\s*(\S*python[\d.]*)$", first) or re.match(r"'''exec' [\"']?(.*?python[\d.]*)[\"' ]", second)
    interpreter = Path(named[1]) if named else None  # else it is a program, or a wrapper of another tool
    if interpreter is None or interpreter.parent.resolve() == Path(sys.executable).parent.resolve():
        return Finding(subject, command)
    state = f"{command} runs {interpreter}, not this Python"
    return Finding(subject, state, "activate the environment that ela-yolo is in, or install it there too")


def _blocks() -> Generator[Finding, None, None]:
    import ultralytics.nn.tasks  # noqa: F401  whose own names go first

    from ela_yolo.host.blocks import (
        ENVIRONMENT,
        check_block,
        foreign_class,
        known_blocks,
        malformed_entries,
        user_blocks,
    )

    for entry in malformed_entries():
        yield Finding(ENVIRONMENT, f"{entry} is left out", f"write NAME=module:Class in {ENVIRONMENT}")
    for name, path in user_blocks().items():
        try:
            if known_blocks()[name] != path:
                raise InputError(f"{name} is {known_blocks()[name]} already; take another name for {path}")
            check_block(name)
            yield Finding(f"block {name}", path)
        except ELAError as error:
            yield Finding(f"block {name}", "is not known", str(error))
    for name in [name for name in known_blocks() if name not in user_blocks()]:
        found = foreign_class(name)
        if found is not None:
            remedy = "give that class another name to have ela-yolo's; all else works" if name == "ELA" else None
            yield Finding(f"block {name}", f"is {found} in Ultralytics, whose rows are left to it", remedy)


def _registration() -> list[Finding]:
    from ultralytics import __version__ as version

    from ela_yolo.host.probes import TESTED, older, probe, probe_trainer, refuse_changed_trainer
    from ela_yolo.plugin import CALLBACKS, register

    probes = [*probe(event for event, _ in CALLBACKS), probe_trainer()]
    findings = [Finding(each.name, each.check) for each in probes if each.problem is None]
    folders = loaded_folders("ultralytics")
    if len(folders) > 1:
        two = f"modules of two copies are mixed: {' and '.join(map(str, folders))}"
        findings.append(Finding("ultralytics", two, "remove one of the folders from PYTHONPATH and sys.path"))
    try:
        register()
        refuse_changed_trainer()
    except ELAError as error:
        return [*findings, Finding("registration", "ELA is off", str(error))]
    state = f"done; tested with {TESTED[0]} to {TESTED[1]}, this is {version}"
    return [*findings, Finding("registration", state, f"{PIP} -U ultralytics" if older(version, TESTED[0]) else None)]


def _model(name: str, weights: str | None) -> Generator[Finding, None, None]:
    from ela_yolo.host.lookup import YAML, check_model

    try:
        for key, file in (("model", name), ("weights", weights)):
            if file is not None and Path(file).suffix not in (*YAML, ".pt"):
                raise InputError(f"{key}={file} is neither a model YAML nor a checkpoint; name a .yaml or a .pt file")
            if file is not None:
                check_model(file)
        model = yield from _built(name)
        if weights is not None:
            yield _transfer(model, weights)
    except ELAError as error:
        yield Finding(f"model={name}", "cannot be used", str(error))
    except Exception as error:  # of Ultralytics, whose reasons are many
        yield Finding(f"model={name}", "cannot be built", f"{type(error).__name__}: {one_line(error)}")


def _built(name: str) -> Generator[Finding, None, Any]:
    from ultralytics.nn.tasks import guess_model_scale

    from ela_yolo.host.blocks import describe, is_block
    from ela_yolo.host.lookup import YAML, find_model, open_model

    model: Any = open_model(name).model
    file = find_model(name) if Path(name).suffix in YAML else Path(getattr(model, "pt_path", None) or name)
    yield Finding(f"model={name}", str(file.resolve()))
    scales = list(model.yaml.get("scales") or ())
    scale = model.yaml.get("scale") or next(iter(scales), "")
    if not scales:
        why = "the model has one size"
    elif file.suffix == ".pt":
        why = f"{scale}, as it was trained"
    elif guess_model_scale(name) == scale:
        why = f"{scale}, from the name"
    else:
        why = f"{scale}, the first of {', '.join(scales)}, for the name holds none"
    yield Finding("scale", why)
    blocks = [(i, layer) for i, layer in enumerate(model.model) if is_block(layer)]
    one = [layer[0] if type(layer).__name__ == "Sequential" else layer for _, layer in blocks]
    kinds = dict.fromkeys(describe(block) for block in one)
    where = f"{len(blocks)} ({', '.join(kinds)}) as layers {', '.join(str(i) for i, _ in blocks)}" if blocks else "none"
    yield Finding("attention blocks", where)
    return model


def _transfer(model: Any, weights: str) -> Finding:
    from ela_yolo.host.lookup import open_model

    transfer = model.load(open_model(weights).model, verbose=False)
    state = str(transfer).removeprefix("ELA: ") if transfer else "no ELA on either side, so Ultralytics matches them"
    remedy = None
    if transfer and transfer.kept < transfer.total / 2:
        remedy = "most weights do not fit; take those of the same family and scale"
    return Finding(f"weights={weights}", state, remedy)


def doctor(given: dict[str, Any]) -> int:
    """Look at the installation."""
    if "weights" in given and "model" not in given:
        raise UsageError("weights= needs a model= that they go into")
    diagnosis = examine(**given)
    print(diagnosis)
    return 0 if diagnosis.healthy else 1


DOCTOR = Command(
    "doctor",
    "",
    "Show what is installed, and what is wrong with it.",
    "The command shows what is installed and from where, and tries out what ela-yolo relies on in Ultralytics. If "
    "anything is wrong, it names the remedy and exits with 1.",
    (
        Key(
            "model",
            "yolov8n-ela.yaml",
            "A model. The command shows its file, its scale and why, and its ELA blocks too.",
        ),
        Key("weights", "yolov8n.pt", "Weights for that model. The command shows which of them the model takes too."),
    ),
    doctor,
    needs_ultralytics=False,  # it looks at what registration refuses
)
