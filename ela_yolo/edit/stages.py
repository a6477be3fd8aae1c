"""Finds the stages of a model by the form of its rows, and chooses the rows that blocks follow.

A stage is the work of a model at one resolution, and a block follows its last row. The rows of a stage read the row
before them, have one width as their first arg, and neither change the resolution nor merge maps. Convolutions, such as
those of a stem, are no stage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from ela_yolo.edit.new_row import check_choice
from ela_yolo.edit.rows import Row
from ela_yolo.errors import InsertionError
from ela_yolo.host.blocks import is_block_name

_CONVOLUTIONS = {"Conv", "Conv2", "ConvTranspose", "DWConv", "GhostConv", "LightConv", "RepConv"}
_RESAMPLE = {"ADown", "AConv", "SCDown", "HGStem", "Focus", "ConvTranspose", "DWConvTranspose2d"}
_BEHIND_A_STAGE = {"SPP", "SPPF", "SPPELAN", "PSA", "C2PSA", "C2fPSA", "AIFI"}  # pooling or attention
_NO_ONE_MAP = {"TorchVision", "CBLinear", "Index", "ImagePoolingAttn"}  # their output is several maps, or none
_LARGEST_KERNEL = 15


def find_stages(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return the last layers of the stages, in order.

    The rows of a stage often have one module, whose name may be unknown here. If they have several, such as a user's
    pooling after the last stage, the module that occurs in most stages of the model counts; of two with as many, the
    later one. Where its width changes, a new stage begins, since a module may change the resolution itself.

    Args:
        rows: The rows of the model; the last row is the head, which is no stage.
    """
    stages = [[row for row in run if _may_be_stage(row)] for run in _runs(rows[:-1])]
    common = Counter(module for stage in stages for module in {row.module for row in stage})
    chosen = []
    for stage in filter(None, stages):
        main = max(reversed(stage), key=lambda row: common[row.module]).module
        kept = {row.layer: row.args[0] for row in stage if row.module == main}
        chosen += [layer for layer, width in kept.items() if kept.get(layer + 1) != width]
    return tuple(chosen)


def _runs(rows: Sequence[Row]) -> list[list[Row]]:
    """Split rows where the resolution changes, where maps are merged, and where a row does not read the one before."""
    runs: list[list[Row]] = []
    for row in rows:
        follows = runs and row.part == runs[-1][-1].part and row.reads == (row.layer - 1,)
        if not follows or _resamples(row):
            runs.append([])
        runs[-1].append(row)
    return runs


def _resamples(row: Row) -> bool:
    if row.module in _RESAMPLE or (row.module.startswith("nn.") and row.module != "nn.Identity"):
        return True
    return _stride(row) == 2 or bool(re.search(r"down|sampl", row.module, re.IGNORECASE))


def _stride(row: Row) -> int | None:
    """Return the stride of a convolution, whose args begin with a width, a kernel and a stride; None for others."""
    width, kernel, stride = (*row.args, None, None, None)[:3]
    return stride if width is not None and kernel is not None and kernel <= _LARGEST_KERNEL else None


def _may_be_stage(row: Row) -> bool:
    one_map = len(row.sources) == 1 and row.module not in _NO_ONE_MAP and not is_block_name(row.module)
    gives_width = bool(row.args) and row.args[0] is not None
    plain = (row.module in _CONVOLUTIONS or _stride(row) == 1) and row.repeats == 1
    return one_map and gives_width and not (plain or row.module in _BEHIND_A_STAGE or _resamples(row))


def choose_stages(
    rows: Sequence[Row],
    name: str,
    after: str | int | Iterable[str | int] | None,
    where: str | None,
    measure_strides: Callable[[], Mapping[int, int]],
) -> tuple[int, ...]:
    """Return the layers that blocks are to follow.

    Args:
        rows: The rows of the model.
        name: The name of the model in errors.
        after: Module names, layer numbers or pyramid levels such as ``P3``, in a list or with commas between them;
            None means every stage.
        where: ``backbone``, ``neck`` (the head's rows but the last) or ``all``. None means ``backbone`` for names and
            levels, and ``all`` for numbers.
        measure_strides: Returns layer -> stride. It builds the model, so it is called for pyramid levels only.
    """
    given = [after] if isinstance(after, str | int) else [*after] if isinstance(after, Iterable) else [after or ""]
    if not all(isinstance(item, str | int) for item in given):
        raise InsertionError(f"after= takes module names, layer numbers and levels such as P3, got {after!r}")
    items = [part.strip() for item in given for part in str(item).split(",") if part.strip()]
    if after is not None and not items:
        raise InsertionError(f"after= is empty; name stages of {name}, such as after={rows[-2].module}")
    place = check_choice("where", where or "backbone")
    inside = [row for row in rows[:-1] if place == "all" or row.part == ("head" if place == "neck" else place)]
    found_stages = find_stages(rows)
    stages = [row for row in inside if row.layer in found_stages]
    if not inside:
        raise InsertionError(f"{name} has no rows in where={place}; choose another where=")
    if after is None and not stages:
        raise InsertionError(
            f"{name}: no stage was found in where={place}; name rows with after=, by number or of {_modules(inside)}"
        )
    numerals = [item for item in items if re.fullmatch(r"-?\d+", item)]
    numbers = {int(item) for item in numerals}
    wrong = numbers - {row.layer for row in inside} if where else set()
    if wrong:
        raise InsertionError(f"{name}: layer {min(wrong)} is not in where={where}; leave where= out or choose another")
    levels = [item for item in items if re.fullmatch(r"P\d+", item)]
    strides = measure_strides() if levels else {}
    chosen = numbers | {row.layer for row in stages if after is None}
    for level in levels:
        found = [row.layer for row in stages if strides.get(row.layer) == 2 ** int(level[1:])]
        if not found:
            there = sorted({strides[row.layer] for row in stages if row.layer in strides})
            have = ", ".join(f"P{stride.bit_length() - 1}" for stride in there) or "none"
            raise InsertionError(f"{name}: no stage at {level} in where={place}; there are: {have}")
        chosen.add(found[-1])
    for module in (item for item in items if item not in (*levels, *numerals)):
        found = [row.layer for row in inside if row.module == module]
        if not found:
            raise InsertionError(f"{name}: no {module} in where={place}; there are: {_modules(inside)}")
        chosen.update(found)
    return tuple(sorted(chosen))


def _modules(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(row.module for row in rows))
