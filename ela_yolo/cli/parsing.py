"""Reads ``key=value``, in Ultralytics' grammar, for a command of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ela_yolo.cli.keys import Command, Key, UsageError
from ela_yolo.util.quiet import quiet
from ela_yolo.util.text import did_you_mean, one_line


def parse(command: Command, args: Sequence[str]) -> dict[str, Any]:
    """Return key -> value, converted, of those keys that are given.

    Args:
        command: The command.
        args: The command line without the word that calls the command.

    Raises:
        UsageError: If a key is unknown or missing, or a value is not one that its key takes.
    """
    merged = _merge(args) if command.needs_ultralytics else args
    given = _parse_with_other_keys(command, merged) if command.other_keys else _parse(command, merged)
    for key in command.keys:
        if key.required and not {key.name, key.unless} & given.keys():
            raise UsageError(f"{key.name}= is missing, such as {key.such_as or f'{key.name}={key.example}'}")
    return given


def _parse(command: Command, args: Sequence[str]) -> dict[str, Any]:
    keys = _by_name(command)
    given = {}
    for arg in args:
        name, equals, written = arg.partition("=")
        if not equals and "." in name:
            raise UsageError(f"'{name}' is not key=value; did you mean model={name}?")
        if name not in keys:
            known = did_you_mean(name, keys) or "; it has " + ", ".join(keys)
            raise UsageError(f"{command.name} has no key '{name}'{known}")
        if not written:
            raise UsageError(f"'{name}' lacks its value; see ela-yolo {command.name} --help")
        given[name] = keys[name].read(written)
    return given


def _parse_with_other_keys(command: Command, args: Sequence[str]) -> dict[str, Any]:
    """Refuse in one line what Ultralytics would refuse in many."""
    from ultralytics.cfg import TASKS, check_dict_alignment, parse_key_value_pair
    from ultralytics.utils import DEFAULT_CFG_DICT

    keys = _by_name(command)
    given: dict[str, Any] = {}
    try:
        for word in args:
            arg = word.removeprefix("--").removesuffix(",")  # as Ultralytics takes them
            if "=" in arg:
                name, value = parse_key_value_pair(arg)
                if name == "cfg" and name in given:
                    raise UsageError("cfg= is given twice; put the keys of both into one file")
                given[name] = keys[name].read(arg.partition("=")[2].strip()) if name in keys else value
            elif arg in TASKS:
                given["task"] = arg
            elif isinstance(DEFAULT_CFG_DICT.get(arg), bool) or arg in {"half", "int8", "end2end", "nms"}:
                given[arg] = True
            elif arg in DEFAULT_CFG_DICT:
                raise UsageError(f"'{arg}' lacks its value, such as {arg}={DEFAULT_CFG_DICT[arg]}")
            else:
                raise UsageError(f"'{arg}' is not key=value{did_you_mean(arg, (*DEFAULT_CFG_DICT, *keys, *TASKS))}")
    except (AssertionError, SyntaxError, ValueError) as error:
        raise UsageError(one_line(error)) from None
    if "mode" in given:
        raise UsageError(f"mode= has no place here: write ela-yolo {given['mode']} ...")
    with quiet():  # Ultralytics prints its whole help, and its warnings come again when it runs
        for name in [name for name in given if name not in keys]:
            try:
                check_dict_alignment(DEFAULT_CFG_DICT, {name: given[name]})
            except SyntaxError:
                known = sorted({*DEFAULT_CFG_DICT, *keys} - {"mode"})
                raise UsageError(f"unknown key '{name}'{did_you_mean(name, known)}") from None
    return given


def _by_name(command: Command) -> Mapping[str, Key]:
    return {key.name: key for key in command.keys}


def _merge(args: Sequence[str]) -> list[str]:
    """Join what the shell split: ``imgsz = 160`` and ``freeze=[1, 2]`` are one argument each."""
    from ultralytics.cfg import merge_equals_args

    try:
        return list(merge_equals_args(list(args)))
    except SyntaxError as error:
        raise UsageError(one_line(error)) from None
