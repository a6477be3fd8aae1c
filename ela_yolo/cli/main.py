"""The command ``ela-yolo``: parses, calls, prints. Its grammar is Ultralytics': ``key=value``."""

from __future__ import annotations

import math
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ela_yolo._version import __version__
from ela_yolo.cli.help import COMMAND_HELP, HELP, MODE_HELP
from ela_yolo.errors import ELAError, UsageError
from ela_yolo.util.quiet import quiet
from ela_yolo.util.text import did_you_mean, plain

INSERT_KEYS = ("after", "where", "variant", "gate", "lr_mult", "rewire", "block")
EDIT_KEYS = ("model", "save", "dry_run", "exist_ok")
DOCTOR_KEYS = ("model", "weights")
ATTENTION_KEYS = ("model", "source", "data", "imgsz", "save", "stretch")
COMPARE_KEYS = ("models", "seeds", "out", "engine", "controls")
PROFILE_KEYS = ("model", "imgsz", "device", "save")
VERIFY_KEYS = ("model", "against", "source", "data", "conf", "iou", "agnostic_nms", "layers")
OWN_KEYS = {"export": ("verify", "layers"), "tune": ("iterations", "use_ray")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 failed, 2 wrong usage."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        return _fail(error, 2)
    except ELAError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:  # of Ultralytics, which reports bad input by many types, often from deep within
        if sys.flags.dev_mode:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = "/".join(Path(frame.filename).parts[-3:])
        reason = f"{type(error).__name__}: {plain(error)} ({place}:{frame.lineno})"
        return _fail(f"{reason}; PYTHONDEVMODE=1 shows all of it", 1)


def _fail(reason: object, status: int) -> int:
    print(f"ela-yolo: {reason}", file=sys.stderr)
    return status


def _run(args: list[str]) -> int:
    words = [arg for arg in args if "=" not in arg and not arg.startswith("-")]
    if not words:
        if args and not {"-h", "--help", "--version"} & set(args):
            raise UsageError(f"no command in '{' '.join(args)}'; see ela-yolo --help")
        print(f"ela-yolo {__version__}" if "--version" in args else HELP)
        return 0
    if words == ["help"]:
        print(HELP)
        return 0
    command = words[0] if words[0] in COMMAND_HELP else _command(words)
    if {"-h", "--help"} & set(args):
        print(COMMAND_HELP.get(command) or MODE_HELP.format(mode=command))
        return 0

    place = args.index(command)
    rest = args[:place] + args[place + 1 :]
    if command == "doctor":  # which looks at what register() refuses
        return _doctor(rest)

    from ela_yolo.host.lookup import check_inputs
    from ela_yolo.plugin import register

    register()
    if command in ("insert", "remove"):
        return _edit(command, rest)
    if command == "verify":
        return _verify(rest)
    if command == "profile":
        return _profile(rest)
    if command == "attention":
        return _attention(rest)
    if command == "compare":
        return _compare(rest)
    overrides = _overrides(
        rest, *OWN_KEYS.get(command, ())
    )  # refused here in one line rather than by Ultralytics in many
    needed = {"model"} if command in ("export", "tune") else {"model", "cfg"}
    if command != "quickstart" and not needed & overrides.keys():
        raise UsageError("model= is missing, such as model=yolov8n-ela.yaml")
    check_inputs(command, overrides)
    if command == "quickstart":
        return _quickstart(overrides)
    if command == "export":
        return _export(overrides)
    if command == "tune":  # Ultralytics' command line does not know its own method
        _model(overrides).tune(**overrides)
        return 0

    from ultralytics.cfg import entrypoint

    sys.argv[1:] = args  # where Ultralytics reads them
    entrypoint()
    return 0


def _command(words: Sequence[str]) -> str:
    from ultralytics.cfg import MODES, TASKS

    commands = (*MODES, *COMMAND_HELP, "tune")
    named = [word for word in words if word in commands]
    if named:
        return named[0]
    unknown = next((word for word in words if word not in TASKS), None)
    if unknown is None:
        raise UsageError(f"'{words[0]}' is a task; name a mode too: {', '.join(MODES)}")
    raise UsageError(f"'{unknown}' is not a command{did_you_mean(unknown, commands) or '; see ela-yolo --help'}")


def _overrides(args: Sequence[str], *own_keys: str) -> dict[str, Any]:
    """Return Ultralytics' overrides, by Ultralytics' own grammar: ``imgsz=160`` -> ``{"imgsz": 160}``."""
    from ultralytics.cfg import TASKS, check_dict_alignment, parse_key_value_pair
    from ultralytics.utils import DEFAULT_CFG_DICT

    overrides: dict[str, Any] = {}
    try:
        for written in _merged(args):
            arg = written.removeprefix("--").removesuffix(",")  # as Ultralytics takes them
            if "=" in arg:
                key, value = parse_key_value_pair(arg)
                if key == "cfg" and key in overrides:
                    raise UsageError("cfg= is given twice; put the keys of both into one file")
                overrides[key] = value
            elif arg in TASKS:
                overrides["task"] = arg
            elif isinstance(DEFAULT_CFG_DICT.get(arg), bool) or arg in {"half", "int8", "end2end", "nms"}:
                overrides[arg] = True
            elif arg in DEFAULT_CFG_DICT:
                raise UsageError(f"'{arg}' lacks its value, such as {arg}={DEFAULT_CFG_DICT[arg]}")
            else:
                known = (*DEFAULT_CFG_DICT, *own_keys, *TASKS)
                raise UsageError(f"'{arg}' is not key=value{did_you_mean(arg, known)}")
    except (AssertionError, SyntaxError, ValueError) as error:
        raise UsageError(plain(error)) from None
    if "mode" in overrides:
        raise UsageError(f"mode= has no place here: write ela-yolo {overrides['mode']} ...")
    own = {key: overrides.pop(key) for key in own_keys if key in overrides}
    with quiet():  # Ultralytics prints its whole help, and its warnings come again when it runs
        for key in overrides:
            try:
                check_dict_alignment(DEFAULT_CFG_DICT, {key: overrides[key]})
            except SyntaxError:
                keys = sorted({*DEFAULT_CFG_DICT, *own_keys} - {"mode"})
                raise UsageError(f"unknown key '{key}'{did_you_mean(key, keys)}") from None
    return {**overrides, **own}


def _model(overrides: dict[str, Any]) -> Any:
    from ela_yolo.host.lookup import open_model

    model, task = overrides.pop("model"), overrides.pop("task", None)
    return open_model(model, task)


def _quickstart(overrides: dict[str, Any]) -> int:
    from ela_yolo.cli.quickstart import quickstart

    result = quickstart(overrides)
    print(f"\n{result.parity}\n\n{result}")
    return 0 if result.parity.passed else 1


def _export(overrides: dict[str, Any]) -> int:
    from ela_yolo.parity.export import export, export_file
    from ela_yolo.parity.images import find_images
    from ela_yolo.parity.runtimes import name_of_format

    verify, layers = (overrides.pop(key, default) for key, default in (("verify", True), ("layers", False)))
    for key, value in (("verify", verify), ("layers", layers)):
        if not isinstance(value, bool):
            raise UsageError(f"{key} must be True or False, got '{value}'")
    source = overrides.pop("source", None)
    if "format" not in overrides:
        raise UsageError("format= is missing, such as format=onnx")
    overrides["format"] = name_of_format(overrides["format"])
    model = _model(overrides)
    if not verify:
        if source is not None or layers:
            skipped = "layers=" if source is None else "source="
            raise UsageError(f"{skipped} is about the comparison, which verify=False skips; leave one of them out")
        export_file(model, overrides)
        return 0
    images = None if source is None else find_images(str(source))
    _, report = export(model, overrides, images, layers)
    print(f"\n{report}\nwritten to {report.save()}")
    return 0 if report.passed else 1


def _verify(args: Sequence[str]) -> int:
    from ela_yolo.host.lookup import check_data, check_model
    from ela_yolo.parity.images import find_images
    from ela_yolo.parity.verify import verify_export

    given = _given("verify", args, VERIFY_KEYS)
    for key, example in (("model", "best.pt"), ("against", "best.onnx")):
        if key not in given:
            raise UsageError(f"{key}= is missing, such as {key}={example}")
    nms: dict[str, Any] = {key: _fraction(key, given[key]) for key in ("conf", "iou") if key in given}
    if "agnostic_nms" in given:
        nms["agnostic_nms"] = _switch(given, "agnostic_nms")
    layers = _switch(given, "layers")
    check_model(given["model"])
    if "data" in given:
        check_data(given["data"])
    model = _model({"model": given["model"]})
    images = find_images(given["source"]) if "source" in given else None
    report = verify_export(model, given["against"], images, given.get("data"), nms, layers)
    print(f"\n{report}\nwritten to {report.save()}")
    return 0 if report.passed else 1


def _profile(args: Sequence[str]) -> int:
    from ela_yolo.cost.measure import profile
    from ela_yolo.cost.result import target_files
    from ela_yolo.host.lookup import check_model

    given = _given("profile", args, PROFILE_KEYS)
    if "model" not in given:
        raise UsageError("model= is missing, such as model=yolov8n-ela.yaml")
    imgsz = _pixels(given.get("imgsz", "640"))
    check_model(given["model"])
    target_files(given["model"], given.get("save"))  # rather refused now than after it was measured
    print(f"measuring {given['model']} and its plain model by turns; a nano model takes a minute", flush=True)
    result = profile(given["model"], imgsz, given.get("device", "cpu"))
    table, picture = result.save(given.get("save"))
    print(f"\n{result}\nwritten to {table} and {picture}")
    return 0


def _attention(args: Sequence[str]) -> int:
    from ela_yolo.gates.attention import attention, gate_health
    from ela_yolo.host.lookup import check_data

    given = _given("attention", args, ATTENTION_KEYS)
    if "model" not in given:
        raise UsageError("model= is missing, such as model=best.pt")
    if not {"source", "data"} & given.keys():
        raise UsageError("source= is missing, such as source=images/ for pictures; or data=my.yaml for a table")
    imgsz = _pixels(given["imgsz"]) if "imgsz" in given else None
    stretch = _switch(given, "stretch")
    if "source" not in given and {"save", "stretch"} & given.keys():
        raise UsageError("save= and stretch= are about pictures, which need a source=")
    if "data" in given:
        check_data(given["data"])
    if "source" in given:
        files = attention(given["model"], given["source"], given.get("save"), imgsz, stretch)
        print(f"{len(files)} {'picture' if len(files) == 1 else 'pictures'} written to {files[0].parent}")
    if "data" in given:
        print(f"\n{gate_health(given['model'], given['data'], imgsz=imgsz)}")
    return 0


def _switch(given: Mapping[str, str], key: str) -> bool:
    value = given.get(key, "False").capitalize()
    if value not in ("True", "False"):
        raise UsageError(f"{key} must be True or False, got '{given[key]}'")
    return value == "True"


def _pixels(written: str) -> int:
    if not written.isdecimal() or int(written) == 0:
        raise UsageError(f"imgsz must be a positive number of pixels, got '{written}'")
    return int(written)


def _compare(args: Sequence[str]) -> int:
    from ela_yolo.study.compare import compare

    given = _overrides(args, *COMPARE_KEYS)
    for key, example in (("models", "yolov8n.yaml,yolov8n-ela.yaml"), ("data", "my.yaml"), ("seeds", "0,1,2")):
        if key not in given:
            raise UsageError(f"{key}= is missing, such as {key}={example}")
    models, seeds = given.pop("models"), given.pop("seeds")
    out = str(given.pop("out", "compare"))
    counted = seeds if isinstance(seeds, list | tuple) else [seeds]
    given["controls"] = _names(given.get("controls", ()))
    result = compare(_names(models), given.pop("data"), counted, out, **given)
    files = result.save(out)
    print(f"\n{result}\n\nwritten to {out}: {', '.join(file.name for file in files)}")
    return 0


def _names(written: object) -> list[str]:
    """Return the names in a list as Ultralytics' grammar gives it: ``a.pt,b.pt``, ``[a.pt,b.pt]`` or ``['a.pt']``."""
    if isinstance(written, list | tuple):
        return [str(name) for name in written]
    text = str(written).strip()
    text = text[1:-1] if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")) else text
    return [name.strip().strip("'\"") for name in text.split(",") if name.strip()]


def _positive(key: str, written: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise UsageError(f"{key} must be a number above 0, got '{written}'")
    return int(value) if value.is_integer() else value


def _fraction(key: str, written: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise UsageError(f"{key} must be a number from 0 to 1, got '{written}'")
    return value


def _edit(command: str, args: Sequence[str]) -> int:
    from ela_yolo.edit.insert import insert, remove
    from ela_yolo.edit.insertion import CHOICES

    given = _given(command, args, (*EDIT_KEYS, *(INSERT_KEYS if command == "insert" else ())))
    for key, value in given.items():
        if key in CHOICES and value not in CHOICES[key]:
            raise UsageError(f"{key} must be one of {', '.join(CHOICES[key])}, got '{value}'")
    if "after" in given:
        given["after"] = re.sub(r"[\[\]()'\"]", "", given["after"])
    if "model" not in given:
        raise UsageError("model= is missing, such as model=best.pt or model=yolov8n.yaml")
    dry_run, exist_ok = (_switch(given, key) for key in ("dry_run", "exist_ok"))
    given = {key: value for key, value in given.items() if key not in ("dry_run", "exist_ok")}
    model = Path(given.pop("model"))
    ending = given.get("block", "ela").lower() if command == "insert" else "plain"
    save = Path(given.pop("save", f"{model.stem}-{ending}{model.suffix}"))
    numbers = {"lr_mult": _positive("lr_mult", given.pop("lr_mult"))} if "lr_mult" in given else {}
    change: Any = insert if command == "insert" else remove
    result = change(model, save=None if dry_run else save, exist_ok=exist_ok, **given, **numbers)
    print(_coloured(result.diff))
    if result.stages:
        follows = ", ".join(f"{layer} {module}" for layer, module in result.stages.items())
        print(f"{given.get('block', 'ELA')} follows {follows}")
    if result.transfer and command == "remove":
        transfer = result.transfer
        print(f"ELA: {transfer.kept}/{transfer.total} pretrained tensors kept; {len(result.rows)} ELA removed")
    elif result.transfer:
        print("\n".join(map(str, (result.transfer, *result.notes))))
        if given.get("block", "ELA") not in ("ELA", "ChannelScale"):
            print(f"{given['block']} changes what the model gives until it is trained; ELA's gate=identity does not")
        elif given.get("gate", "identity") != "identity" and not result.notes:
            print(f"gate={given['gate']} changes what the model gives until it is trained; gate=identity does not")
    print("nothing written (dry_run=True)" if dry_run else f"written to {save}")
    return 0


def _doctor(args: Sequence[str]) -> int:
    from ela_yolo.cli.doctor import examine

    given = _given("doctor", args, DOCTOR_KEYS)
    if "weights" in given and "model" not in given:
        raise UsageError("weights= needs a model= that they go into")
    diagnosis = examine(**given)
    print(diagnosis)
    return 0 if diagnosis.healthy else 1


def _given(command: str, args: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Return key -> value for a command that is not Ultralytics', in Ultralytics' grammar."""
    given = {}
    for arg in args if command == "doctor" else _merged(args):  # which must not need Ultralytics
        key, equals, value = arg.partition("=")
        if not equals and "." in key:
            raise UsageError(f"'{key}' is not key=value; did you mean model={key}?")
        if key not in keys:
            raise UsageError(f"{command} has no key '{key}'{did_you_mean(key, keys) or '; it has ' + ', '.join(keys)}")
        if not equals or not value:
            raise UsageError(f"'{key}' lacks its value; see ela-yolo {command} --help")
        given[key] = value
    return given


def _merged(args: Sequence[str]) -> list[str]:
    """Join what the shell split: ``imgsz = 160`` and ``freeze=[1, 2]`` are one argument each."""
    from ultralytics.cfg import merge_equals_args

    try:
        return list(merge_equals_args(list(args)))
    except SyntaxError as error:
        raise UsageError(plain(error)) from None


def _coloured(diff: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return diff
    colours = {"+": "32", "-": "31", "@": "36"}
    lines = (f"\x1b[{colours[line[0]]}m{line}\x1b[0m" if line[:1] in colours else line for line in diff.splitlines())
    return "\n".join(lines)
