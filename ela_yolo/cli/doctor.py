"""``ela-yolo doctor``: shows what is installed and registered, and names a remedy for each problem."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ela_yolo.cli.keys import Command, Key
from ela_yolo.errors import ELAError, UsageError
from ela_yolo.util.console import say
from ela_yolo.util.installed import distributions_of, installed_folder
from ela_yolo.util.installer import installer
from ela_yolo.util.text import one_line

PACKAGES = ("ela-yolo", "torch", "torchvision", "ultralytics")
SHARED = ("ultralytics", "cv2", "onnxruntime")  # packages of which there are several distributions


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was checked, the state, and the remedy if something is wrong."""

    subject: str
    state: str
    remedy: str | None = None

    def __str__(self) -> str:
        line = f"{'ok' if self.remedy is None else 'WRONG':7}{self.subject:24}  {self.state}"
        return line if self.remedy is None else f"{line}\n{'':7}-> {self.remedy}"


def examine(model: str | None = None, weights: str | None = None) -> Iterator[Finding]:
    """Check the installation and, if they are given, a model and the weights for it, each a YAML or a checkpoint."""
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    packages = [_package(name) for name in PACKAGES]
    yield from (*packages, *_owners(), _new_process(), _yolo_command())
    if all(package.remedy is None for package in packages):
        yield (registration := _registration())
        if model is not None and registration.remedy is None:
            yield from _model(model, weights)


def _package(name: str) -> Finding:
    module = name.replace("-", "_")
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        state = "is not installed" if missing == module else f"cannot be imported: {missing} is not installed"
        return Finding(name, state, installer("install", missing.replace("cv2", "opencv-python-headless")))
    except Exception as error:  # a broken installation fails in its own ways
        remedy = installer("install", "--force-reinstall", *(["torch"] if module == "torchvision" else []), name)
        if "libGL" in str(error):
            remedy = "install libGL (libgl1) on this machine"
        return Finding(name, f"cannot be imported: {type(error).__name__}: {one_line(error)}", remedy)
    used, installed, here = Path(str(imported.__file__)).parent, installed_folder(name, module), Path.cwd() / module
    state = f"{imported.__version__}, {used}"
    if installed is not None and installed.resolve() != used.resolve():
        if module != "ultralytics":
            return Finding(name, f"{used} hides the installed {installed}", "rename that folder, or run in another one")
        state = f"{imported.__version__}, the local copy {used} is used, and not the installed {installed}"
    elif module == "ultralytics" and (here / "__init__.py").is_file() and here.resolve() != used.resolve():
        state += f"; `python` in this folder uses {here}: python -m ela_yolo doctor looks at that"
    return Finding(name, state)


def _owners() -> Iterator[Finding]:
    """Show which distribution owns a package; several of them overwrite each other's files."""
    for module in SHARED:
        names = distributions_of(module)
        if len(names) > 1:
            # A build with a longer name was chosen; the plain one came with something that asks for it by name.
            kept = max(names, key=len)
            remedy = f"{installer('uninstall', *names)} && {installer('install', '--no-deps', kept)}"
            yield Finding(f"{module}/", f"{' and '.join(names)} overwrite each other's files in it", remedy)
        elif names:
            yield Finding(f"{module}/", f"belongs to {names[0]}")


def _new_process() -> Finding:
    """Start a Python process in an empty folder, and check whether it will register ELA."""
    subject = "a new process"
    if os.environ.get("ELA_YOLO_AUTOLOAD") == "0":
        return Finding(subject, "does not know ELA: switched off by ELA_YOLO_AUTOLOAD=0", "unset ELA_YOLO_AUTOLOAD")
    code = (
        "import sys; print(any(getattr(finder, 'arms_ela_yolo', False) for finder in sys.meta_path)); "
        "import _ela_yolo_start"  # prints the reason if it is missing or damaged
    )
    with tempfile.TemporaryDirectory() as empty:  # a folder of the user may have modules that hide installed ones
        keys: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": 60}
        process = subprocess.run([sys.executable, "-c", code], cwd=empty, stdin=subprocess.DEVNULL, **keys)
    if process.stdout.strip() == "True":
        notebook = "; a notebook that ran before the installation needs %load_ext ela_yolo"
        return Finding(subject, f"knows ELA{notebook if 'JPY_PARENT_PID' in os.environ else ''}")
    folder, read = Path(__file__).parents[2], {*site.getsitepackages(), site.getusersitepackages()}
    if (folder / "_ela_yolo_start").is_dir() and str(folder) not in read:
        state = f"knows ELA after `import ela_yolo` only: Python reads no start-up files in {folder}"
        return Finding(subject, state)
    reason = (process.stderr.strip().splitlines() or ["Python did not read ela_yolo.pth in site-packages"])[-1]
    return Finding(subject, f"does not know ELA: {reason}", _again())


def _again() -> str:
    """Return the command that installs ela-yolo again, from where it came."""
    try:
        origin = json.loads(distribution("ela-yolo").read_text("direct_url.json") or "{}").get("url", "")
    except PackageNotFoundError:
        origin = ""
    source = url2pathname(urlsplit(origin).path) if origin.startswith("file:") else origin
    return installer("install", "--force-reinstall", "--no-deps", source or "ela-yolo")


def _yolo_command() -> Finding:
    subject = "the command yolo"
    command = shutil.which("yolo")
    if command is None:
        return Finding(subject, "is not on the PATH; activate this environment to have it")
    first, second = [*Path(command).read_bytes()[:2000].decode(errors="replace").splitlines(), "", ""][:2]
    # A path that is long or has spaces is in the second line, after a shell's exec.
    named = re.match(r"#!\s*(\S*python[\d.]*)$", first) or re.match(r"'''exec' [\"']?(.*?python[\d.]*)[\"' ]", second)
    if named is None or Path(named[1]).parent.resolve() == Path(sys.executable).parent.resolve():
        return Finding(subject, command)
    state = f"{command} runs {named[1]}, not this Python"
    return Finding(subject, state, "activate the environment with ela-yolo, or install ela-yolo there too")


def _registration() -> Finding:
    from ela_yolo.host.blocks import foreign_class
    from ela_yolo.host.calls import package_versions
    from ela_yolo.host.probes import TESTED, older, refuse_changed_trainer
    from ela_yolo.plugin import register

    subject, version, (oldest, newest) = "registration", package_versions()["ultralytics"], TESTED
    try:
        register()
        refuse_changed_trainer()
    except ELAError as error:
        return Finding(subject, "ELA is off", str(error))
    if foreign_class("ELA") is not None:
        state = f"ELA is {foreign_class('ELA')} in this Ultralytics, and its rows are left to that class"
        return Finding(subject, state, "rename that class to use ela-yolo's")
    remedy = installer("install", "-U", "ultralytics") if older(version, oldest) else None
    return Finding(subject, f"done; all probes passed; tested with {oldest} to {newest}, this is {version}", remedy)


def _model(name: str, weights: str | None) -> Iterator[Finding]:
    from ela_yolo.host.blocks import describe
    from ela_yolo.host.lookup import find_model, open_model
    from ela_yolo.host.model_blocks import all_blocks

    subject = f"model={name}"
    try:
        for given in filter(None, (name, weights)):
            find_model(given)
        model: Any = open_model(name).model
        trained = Path(name).suffix == ".pt"
        yield Finding(subject, str(Path(getattr(model, "pt_path", name)) if trained else find_model(name)))
        scales, scale = list(model.yaml.get("scales") or ()), model.yaml.get("scale")
        if scales:
            first = f"{scales[0]}, the first of {', '.join(scales)}: the name has no scale"
            yield Finding(
                "scale", f"{scale}, {'as it was trained' if trained else 'from the name'}" if scale else first
            )
        blocks = all_blocks(model)
        kinds = ", ".join(dict.fromkeys(map(describe, blocks.values())))
        where = f"{len(blocks)} ({kinds}) as layers {', '.join(blocks)}" if blocks else "none"
        yield Finding("attention blocks", where)
        if weights is not None:
            transfer = model.load(open_model(weights).model, verbose=False)
            state = str(transfer).removeprefix("ELA: ") if transfer else "no ELA; Ultralytics matches the tensors"
            poor = transfer and transfer.kept < transfer.total / 2
            remedy = "most weights do not fit; take those of the same family and scale" if poor else None
            yield Finding(f"weights={weights}", state, remedy)
    except ELAError as error:
        yield Finding(subject, "cannot be used", str(error))
    except Exception as error:  # of Ultralytics, which has many types
        yield Finding(subject, "cannot be built", f"{type(error).__name__}: {one_line(error)}")


def doctor(given: dict[str, Any]) -> int:
    """Print a line for each check, and one for the result."""
    if "weights" in given and "model" not in given:
        raise UsageError("weights= needs model=, the model to load them into")
    wrong = 0
    for finding in examine(**given):
        say(finding)
        wrong += finding.remedy is not None
    say(f"{wrong} wrong" if wrong else "all is well")
    return 1 if wrong else 0


DOCTOR = Command(
    "doctor",
    "",
    "Check the installation.",
    "The command shows which packages are installed and where, and tests what ela-yolo relies on in Ultralytics. If "
    "anything is wrong, it names the remedy and exits with 1.",
    (
        Key("model", "yolov8n-ela.yaml", "A model: its file, its scale and its attention blocks are shown too."),
        Key("weights", "yolov8n.pt", "Weights for that model: the tensors that the model takes are counted too."),
    ),
    doctor,
    needs_ultralytics=False,  # it also examines an Ultralytics in which ELA cannot be registered
)
