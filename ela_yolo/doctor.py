"""What is installed, what is registered, and what is wrong: ``ela-yolo doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import site
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from ela_yolo.errors import ELAError

AUTOLOAD = "ela_yolo.pth"


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
    """Look at the installation and, where they are named, at a model and at what arrives of weights in it.

    Args:
        model: A model YAML or a checkpoint, by the name that a command would be given.
        weights: A checkpoint or a model YAML to take weights from.
    """
    findings = [
        Finding("Python", f"{platform.python_version()}, {sys.executable}"),
        _package("ela-yolo", "ela_yolo", "pip install ela-yolo, or in a clone: pip install ."),
        _package("ultralytics", "ultralytics", "pip install ultralytics"),
        _package("torch", "torch", "pip install torch torchvision"),
        _torchvision(),
        _autoload_file(),
        _autoload_elsewhere(),
        _yolo_command(),
    ]
    if all(finding.remedy is None for finding in findings[2:5]):
        findings += _seams()
        if model is not None and findings[-1].remedy is None:
            findings += _model(model, weights)
    return Diagnosis(tuple(findings))


def _package(name: str, module: str, remedy: str) -> Finding:
    try:
        imported = import_module(module)
    except Exception as error:  # a broken installation fails in its own ways
        return Finding(name, f"cannot be imported: {type(error).__name__}: {error}", remedy)
    found = Path(str(imported.__file__)).parent
    with suppress(metadata.PackageNotFoundError):
        beside = Path(str(metadata.distribution(name).locate_file(module)))
        if beside.is_dir() and beside.resolve() != found.resolve():
            hidden = f"{found} hides the installed {beside}"
            return Finding(name, hidden, "rename that folder, or run in another one; PYTHONPATH may name it too")
    return Finding(name, f"{imported.__version__}, {found}")


def _torchvision() -> Finding:
    pair = "pip install --force-reinstall torch torchvision, which takes two that fit"
    try:
        torch, torchvision = import_module("torch"), import_module("torchvision")
        import_module("torchvision.ops").nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except ModuleNotFoundError:
        return Finding("torchvision", "is not installed", pair)
    except Exception as error:
        versions = " and ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision"))
        return Finding("torchvision", f"{versions} do not fit ({str(error).splitlines()[0]})", pair)
    device = "CUDA" if torch.cuda.is_available() else "CPU alone"
    return Finding("torchvision", f"{torchvision.__version__}, fits torch {torch.__version__} ({device})")


def _autoload_file() -> Finding:
    folders = [*site.getsitepackages(), site.getusersitepackages()]  # where Python runs such files
    places = [place for folder in folders if (place := Path(folder) / AUTOLOAD).is_file()]
    if not places:
        remedy = f"pip install --force-reinstall --no-deps ela-yolo puts {AUTOLOAD} into site-packages"
        return Finding("autoload file", "is missing", remedy)
    return Finding("autoload file", str(places[0]))


def _autoload_elsewhere() -> Finding:
    """Start an interpreter as others do, and ask it."""
    subject = "in a new process"
    if os.environ.get("ELA_YOLO_AUTOLOAD") == "0":
        return Finding(subject, "switched off by ELA_YOLO_AUTOLOAD=0", "unset ELA_YOLO_AUTOLOAD")
    code = "import sys; print(any(getattr(finder, 'arms_ela_yolo', False) for finder in sys.meta_path))"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if asked.stdout.strip() == "True":
        return Finding(subject, "ELA waits for Ultralytics")
    why = f": {asked.stderr.strip().splitlines()[-1]}" if asked.stderr.strip() else ""
    remedy = "pip install --force-reinstall --no-deps ela-yolo, into the environment of this Python"
    return Finding(subject, f"ELA is not known{why}", remedy)


def _yolo_command() -> Finding:
    command = shutil.which("yolo")
    if command is None:
        return Finding("the command yolo", "is not on the PATH; activate this environment to have it")
    first = Path(command).read_bytes().partition(b"\n")[0].decode(errors="replace").strip()
    interpreter = Path(first[2:].split()[0]) if first.startswith("#!") else None
    if interpreter is None or interpreter.parent.resolve() == Path(sys.executable).parent.resolve():
        return Finding("the command yolo", command)
    state = f"{command} runs {interpreter}, not this Python"
    return Finding("the command yolo", state, "activate the environment that ela-yolo is in, or install it there too")


def _seams() -> list[Finding]:
    from ultralytics import __version__ as version

    from ela_yolo.registration import TESTED, check_host, register

    findings = [
        Finding(f"{seam.name}", seam.problem or seam.check, "see below" if seam.problem else None)
        for seam in check_host()
    ]
    try:
        register()
    except ELAError as error:
        return [*findings, Finding("registration", "ELA is off", str(error))]
    return [*findings, Finding("registration", f"done; tested with {TESTED[0]} to {TESTED[1]}, this is {version}")]


def _model(name: str, weights: str | None) -> Generator[Finding, None, None]:
    from ela_yolo.inputs import check_model

    try:
        check_model(name)
        model = yield from _built(name)
        if weights is not None:
            check_model(weights)
            yield _transfer(model, weights)
    except ELAError as error:
        yield Finding(f"model={name}", "cannot be used", str(error))
    except Exception as error:  # of the host, whose reasons are many
        from ela_yolo.inputs import plain

        reason = f"{type(error).__name__}: {plain(str(error))}"
        yield Finding(f"model={name}", "cannot be built", reason)


def _built(name: str) -> Generator[Finding, None, Any]:
    from ultralytics import YOLO
    from ultralytics.nn.tasks import guess_model_scale

    from ela_yolo.inputs import YAML, find_model
    from ela_yolo.weights import is_ela

    model: Any = YOLO(name).model
    file = find_model(name) if Path(name).suffix in YAML else Path(name)
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
        why = f"{scale}, the first of {', '.join(scales)}, for the name holds none such as yolov8{scale}"
    yield Finding("scale", why)
    blocks = [(i, layer) for i, layer in enumerate(model.model) if is_ela(layer)]
    one = [layer if hasattr(layer, "variant") else layer[0] for _, layer in blocks]
    kinds = dict.fromkeys(f"ELA-{block.variant} {block.gate}" for block in one)
    where = f"{len(blocks)} ({', '.join(kinds)}) as layers {', '.join(str(i) for i, _ in blocks)}" if blocks else "none"
    yield Finding("ELA blocks", where)
    return model


def _transfer(model: Any, weights: str) -> Finding:
    from ultralytics import YOLO

    transfer = model.load(YOLO(weights).model, verbose=False)
    state = str(transfer).removeprefix("ELA: ") if transfer else "no ELA on either side, so Ultralytics matches them"
    remedy = None
    if transfer and transfer.kept < transfer.total / 2:
        remedy = "most weights do not fit; take those of the same family and scale"
    return Finding(f"weights={weights}", state, remedy)
