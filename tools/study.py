"""The third study of docs/study.md: which models, data and budgets, and the comparisons that run them.

Start it again after an interruption: finished runs are kept, as small files in docs/study. ``python tools/study.py``
runs all comparisons in their order, ``python tools/study.py neu`` those that are named, and ``python tools/study.py
tables`` writes what is finished into docs/study.md and the table of gains into README. A model whose runs are finished
is not made again. To repeat the study, begin with an empty docs/study.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

REPO = Path(__file__).parents[1]
SHARED = Path("../shared")  # beside the clone, as is all that is named in the results
OUT = Path("docs/study")
SEEDS = (0, 1, 2, 3, 4, 5)

PLACES: dict[str, dict[str, str]] = {"": {}, "neck-": {"where": "neck"}}
MODELS: dict[str, dict[str, Any]] = {"plain": {}}  # name -> options of insert
for _place, _keys in PLACES.items():
    for _rate in (1, 10, 100):
        MODELS[f"{_place}identity-{_rate}"] = {"gate": "identity", "lr_mult": _rate, **_keys}
    MODELS[f"{_place}scale-100"] = {"block": "ChannelScale", "lr_mult": 100, **_keys}
    MODELS[f"{_place}paper"] = {"gate": "paper", **_keys}
for _variant in "TSL":
    MODELS[f"identity-100-{_variant}"] = {"variant": _variant, **MODELS["identity-100"]}
for _block in ("SE", "ECA", "CA", "CBAM"):
    MODELS[f"{_block.lower()}-100"] = {"block": _block, "lr_mult": 100}
FINE = {
    **{"cache": "ram", "optimizer": "AdamW", "momentum": 0.9, "cos_lr": True, "warmup_epochs": 1},
    **{"warmup_bias_lr": 0.0, "mosaic": 0, "close_mosaic": 0},
}
ROWS = {
    **{"data": "rows.yaml", "imgsz": 128, "batch": 4, "nbs": 4, "lr0": 0.002, **FINE},
    **{"cls": 3.0, "translate": 0, "scale": 0, "workers": 0},
}
BCCD = {"data": f"{SHARED}/data/bccd/bccd.yaml", "imgsz": 128, "batch": 16, "cache": "ram", "epochs": 100}
# Mosaic ends at half: its end raises mAP, and in the last quarter it would make any budget seem too short.
STEEL = {**BCCD, "data": "docs/study/neu-quarter.yaml", "epochs": 60, "close_mosaic": 30}
BOARDS = {
    **{"data": f"{SHARED}/data/deeppcb/deeppcb.yaml", "imgsz": 192, "batch": 16, "nbs": 16, "lr0": 0.0005, **FINE},
    **{"epochs": 40},
}
SCENES = {"data": "scenes.yaml", "imgsz": 128, "batch": 8, "nbs": 8, "lr0": 0.001, **FINE, "epochs": 40}
SGD = {"optimizer": "SGD", "lr0": 0.01}  # as optimizer=auto has it for large data
# Name -> models (the baseline first), train keys; the decisive ones first.
COMPARISONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "rows-short": (tuple(MODELS), {**ROWS, "epochs": 5}),
    "rows-long": (tuple(MODELS), {**ROWS, "epochs": 10}),
    "rows-20": (("plain", "identity-100"), {**ROWS, "epochs": 20}),
    "neu": (("plain", "neck-paper", "identity-100"), STEEL),
    "scenes": (("plain", "paper", "identity-100"), SCENES),
    "deeppcb": (("plain", "identity-100"), BOARDS),
    "bccd": (("plain", "identity-100", "se-100", "eca-100", "ca-100", "cbam-100"), BCCD),
    # Before the limit of 0.1 for SGD (ela_yolo/host/learning_rate.py): the gates of identity-100 trained at 1.0.
    "bccd-sgd": (("plain", "identity-10", "identity-100"), {**BCCD, **SGD}),
    "rows-sgd-short": (("plain", "identity-10", "identity-100"), {**ROWS, **SGD, "epochs": 5}),
    "rows-sgd-long": (("plain", "identity-10", "identity-100"), {**ROWS, **SGD, "epochs": 10}),
}


# The rows of README's table of gains (folder of the runs, English name, Chinese name), and its columns.
GAINS = (
    ("rows-short", "`rows.yaml`, 5 epochs", "`rows.yaml`，5 个 epoch"),
    ("rows-long", "`rows.yaml`, 10 epochs", "`rows.yaml`，10 个 epoch"),
    ("rows-20", "`rows.yaml`, 20 epochs", "`rows.yaml`，20 个 epoch"),
    ("neu", "NEU-DET (steel), 60 epochs", "NEU-DET（钢材），60 个 epoch"),
    ("deeppcb", "DeepPCB (boards), 40 epochs", "DeepPCB（电路板），40 个 epoch"),
    ("bccd", "BCCD (blood cells), 100 epochs", "BCCD（血细胞），100 个 epoch"),
    ("scenes", "random scenes, 40 epochs", "随机场景，40 个 epoch"),
)
GAINS_HEAD = (
    ("", "plain model", "with ELA", "p", "with ELA, attention removed"),
    ("", "原模型", "加入 ELA", "p", "加入 ELA，去掉注意力"),
)
CHOSEN = "identity-100"  # the default of insert


def make_models(names: tuple[str, ...]) -> list[str]:
    """Write the models of a comparison, and return their files."""
    from ela_yolo import insert

    folder = OUT / "models"
    folder.mkdir(parents=True, exist_ok=True)
    original = SHARED / "weights" / "yolov8n.pt"
    files = [folder / f"{name}.pt" for name in names]
    for name, file in zip(names, files, strict=True):
        if not file.exists() and name == "plain":
            shutil.copy(original, file)
        elif not file.exists():
            insert(original, save=file, **MODELS[name])
    return [str(file) for file in files]


def rows_table() -> str:
    """Return the table of the runs on rows.yaml: each model at both budgets, beside plain and ChannelScale."""
    from ela_yolo.util.tables import markdown_table

    budgets = ("rows-short", "rows-long")
    found = {budget: scores_of(OUT / budget) for budget in budgets}
    head = ["model"]
    for budget in budgets:
        epochs = COMPARISONS[budget][1]["epochs"]
        head += [f"{epochs} epochs", "p vs plain", "p vs `ChannelScale`", "without attention"]
    rows = []
    for name in (name for name in MODELS if any(name in found[budget] for budget in budgets)):
        cells = [name.replace("-", " ")]
        place = next(place for place in reversed(PLACES) if name.startswith(place))
        control = f"{place}scale-{MODELS[name].get('lr_mult', 100)}"
        for budget in budgets:
            runs = found[budget].get(name, {})
            cells.append(spread([run["score"] for run in runs.values()]))
            for other in ("plain", control):
                values = differences(found[budget].get(other, {}), runs)
                cells.append("" if name in ("plain", other) else p_value(values))
            cells.append(without_attention(runs))
        rows.append(cells)
    return markdown_table(head, rows)


def harm_table() -> str:
    """Return the table of the runs on the four data sets where a candidate must not do harm."""
    from ela_yolo.util.tables import markdown_table

    rows = []
    for name in ("neu", "deeppcb", "bccd", "scenes", "bccd-sgd"):
        found, keys = scores_of(OUT / name), COMPARISONS[name][1]
        plain = found.get("plain", {})
        for model, runs in sorted(found.items(), key=lambda item: item[0] != "plain"):
            values = differences(plain, runs) if model != "plain" else []
            cells = [f"{mean(values):+.3f}" if values else "", p_value(values), without_attention(runs)]
            cells.append(f"{mean(map(last_quarter, runs.values())):+.3f}")
            budget = f"{Path(keys['data']).stem}, {keys['imgsz']} px, {keys['epochs']} epochs"
            budget += ", SGD" * (keys.get("optimizer") == "SGD")
            score = spread([run["score"] for run in runs.values()])
            rows.append([budget, model.replace("-", " "), score, *cells])
    head = ["data set", "model", "mAP50-95", "vs plain", "p", "without attention", "last quarter"]
    return markdown_table(head, rows) if rows else ""


def gains_table(language: int) -> str:
    """Return README's table of gains; the language is 1 for English and 2 for Chinese."""
    from ela_yolo.util.tables import markdown_table

    rows = []
    for row in GAINS:
        found = scores_of(OUT / row[0])
        plain, chosen = found["plain"], found[CHOSEN]
        scores = [f"{mean(run['score'] for run in runs.values()):.3f}" for runs in (plain, chosen)]
        rows.append([row[language], *scores, p_value(differences(plain, chosen)), without_attention(chosen)])
    return markdown_table(GAINS_HEAD[language - 1], rows)


def last_quarter(run: dict[str, Any]) -> float:
    """Return what the last quarter of the epochs adds to the score: the mean of its last five, less that before it."""
    scores: list[float] = run["epochs"]
    before = len(scores) * 3 // 4
    return mean(scores[-5:]) - mean(scores[before - 5 : before])


def differences(base: dict[int, dict[str, Any]], runs: dict[int, dict[str, Any]]) -> list[float]:
    """Return the differences of two models' scores, for the seeds that both have."""
    return [runs[seed]["score"] - base[seed]["score"] for seed in sorted(base.keys() & runs.keys())]


def p_value(values: list[float]) -> str:
    """Return the p-value of the exact sign-flip test; nothing with fewer than six seeds."""
    from ela_yolo.study.statistics import sign_flip_p

    return f"{sign_flip_p(values):.3f}" if len(values) >= len(SEEDS) else ""


def without_attention(runs: dict[int, dict[str, Any]]) -> str:
    """Return the mean score with the gates held constant; nothing for models without blocks."""
    scores = [run["without_attention"] for run in runs.values() if run.get("without_attention") is not None]
    return f"{mean(scores):.3f}" if scores else ""


def scores_of(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Return model -> seed -> the result of the run, for the finished runs in a folder."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for file in sorted(folder.glob("runs/*/run.json")):
        name, _, seed = file.parent.name.removeprefix("yolov8n-").rpartition("-")  # YAMLs have the scale in their names
        run = json.loads(file.read_text(encoding="utf-8"))
        run.setdefault("score", run.get("map50_95"))  # the name in records of the older studies
        found.setdefault(name, {})[int(seed)] = run
    return found


def spread(values: list[float]) -> str:
    """Return mean and standard deviation, and the number of seeds if it is not six."""
    if not values:
        return ""
    count = "" if len(values) == len(SEEDS) else f" ({len(values)} seed{'s' * (len(values) > 1)})"
    return f"{mean(values):.3f} ± {stdev(values):.3f}{count}" if len(values) > 1 else f"{values[0]:.3f}{count}"


def write_tables() -> None:
    """Write the tables into the documents, between marks such as ``<!-- rows -->`` and ``<!-- end of rows -->``."""
    places = (
        ("docs/study.md", "rows", rows_table()),
        ("docs/study.md", "harm", harm_table()),
        ("README.md", "gains", gains_table(1)),
        ("README.zh-CN.md", "gains", gains_table(2)),
    )
    for name, mark, table in places:
        page = REPO / name
        before, _, rest = page.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
        _, _, after = rest.partition(f"<!-- end of {mark} -->")
        page.write_text(f"{before}<!-- {mark} -->\n{table}\n<!-- end of {mark} -->{after}", encoding="utf-8")


def main(names: list[str]) -> None:
    """Run comparisons, and keep what they found as small files."""
    os.chdir(REPO)
    from ela_yolo.study.compare import compare

    if names == ["tables"]:
        return write_tables()
    for name in names or COMPARISONS:
        (plain, *others), keys = COMPARISONS[name]
        found = scores_of(OUT / name)
        left = [model for model in others if len(found.get(model, {})) < len(SEEDS)]
        if left:
            compare(make_models((plain, *left)), seeds=SEEDS, out=OUT / name, engine="ray", **{"workers": 1, **keys})


if __name__ == "__main__":
    main(sys.argv[1:])
