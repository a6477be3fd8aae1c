"""The tables, the files and the picture of a comparison whose numbers are known."""

import csv
import json
from dataclasses import replace

import cv2
import pytest

from ela_yolo.study.result import CompareResult
from ela_yolo.study.runs import SeedRun
from ela_yolo.study.statistics import paired_differences

NAN = float("nan")
RUN = SeedRun(
    model="plain",
    seed=0,
    score=0.5,
    without_attention=0.4,
    metrics={"metrics/mAP50(B)": 0.9, "metrics/precision(B)": 0.8},
    classes={"cat": 0.25},
    sizes={"small": 0.125, "medium": NAN, "large": 0.75},
    objects={"small": 1200, "medium": 0, "large": 7},
    resampled=(0.5, 0.5),
    epochs=(0.1, 0.2),
    parameters=1000,
    gflops=1.5,
    seconds=60,
    imgsz=64,
    batch=16,
)


def result_of(runs):
    """A result of runs, in the order of their models."""
    names = dict.fromkeys(run.model for run in runs)
    by_name = {name: [run for run in runs if run.model == name] for name in names}
    scores = {name: [run.score for run in each] for name, each in by_name.items()}
    resampled = {name: [run.resampled for run in each] for name, each in by_name.items()}
    return CompareResult("x.yaml", "val", "detect", {}, tuple(runs), paired_differences(scores, resampled))


def three_models(seeds=3):
    scores = {"plain": [0.5, 0.6, 0.7], "a": [0.51, 0.61, 0.71], "b": [0.4, 0.6, 0.8]}
    draws = {"plain": (0.1, 0.5), "a": (0.2, 0.6), "b": (0.1, 0.4)}
    return [
        replace(RUN, model=name, seed=seed, score=scores[name][seed], resampled=draws[name])
        for seed in range(seeds)
        for name in scores
    ]


def test_the_tables_of_several_models():
    lines = str(result_of(three_models())).splitlines()
    head = "AP small (1,200) | AP large (7) | parameters | GFLOPs |"
    assert lines[0] == f"|  | mAP50-95 | mAP50 | mAP50-95 without attention | {head}"
    scores = "0.6000 ± 0.1000 | 0.9000 ± 0.0000 | 0.4000 ± 0.0000 | 0.1250 ± 0.0000 | 0.7500 ± 0.0000"
    assert f"| plain | {scores} | 1,000 | 1.50 |" in lines
    assert "| cat | 0.2500 ± 0.0000 | 0.2500 ± 0.0000 | 0.2500 ± 0.0000 |" in lines
    assert "| mAP50-95, to plain | mean | 95% over seeds | 95% over images | p | p (Holm) |" in lines
    assert "| a | +0.0100 ± 0.0000 | +0.0100 to +0.0100 | +0.1000 to +0.1000 | 0.25 | 0.5 |" in lines
    assert "| b | +0.0000 ± 0.1000 | -0.1000 to +0.1000 | -0.0975 to -0.0025 | 1 | 1 |" in lines
    assert any("seeds 0, 1, 2, 64 px, trained with the defaults." in line for line in lines)
    assert any(line.startswith("AP small, medium, large: ") for line in lines)


def test_two_seeds_show_no_interval():
    """Not that over images either: it is about two trained models, and says nothing of the next ones."""
    lines = str(result_of(three_models(seeds=2))).splitlines()
    assert "| a | +0.0100 ± 0.0000 |  |  |  |  |" in lines


def test_without_objects_there_are_no_sizes():
    runs = [
        replace(RUN, model=name, objects=dict.fromkeys(RUN.objects, 0), sizes=dict.fromkeys(RUN.sizes, NAN))
        for name in "ab"
    ]
    assert "AP small" not in str(result_of(runs))


def test_the_files_of_a_result(tmp_path):
    """They hold no NaN, and not the resampled images, which the runs' own files have."""
    run = replace(RUN, metrics={"metrics/precision(B)": NAN}, classes={"cat": NAN}, epochs=(NAN,))
    _, latex, table, file, picture = result_of([replace(run, model=name) for name in "ab"]).save(tmp_path)
    read = json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    sizes = {"small": 0.125, "medium": None, "large": 0.75}
    expected = {
        "metrics": {"metrics/precision(B)": None},
        "classes": {"cat": None},
        "epochs": [None],
        "sizes": sizes,
        "objects": RUN.objects,
    }
    assert read["runs"][1] | expected == read["runs"][1] and "resampled" not in read["runs"][1]
    assert (read["differences"][0]["images_low"], read["differences"][0]["images_high"]) == (0, 0)
    with table.open(encoding="utf-8") as rows:
        row = next(csv.DictReader(rows))
    named = {"mAP50-95": "0.5", "metrics/precision(B)": "", "AP small": "0.125", "AP medium": "", "seconds": "60"}
    assert row.items() >= {**named, "AP large": "0.75", "small objects": "1200", "medium objects": "0"}.items()
    assert cv2.imread(str(picture)).std() > 10
    lines = latex.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == [r"\begin{tabular}{llllllll}", r"\toprule"] and lines[-1] == r"\end{tabular}"
    assert lines[4].startswith("a & 0.5000 & - & 0.4000 & 0.1250 & 0.7500 & ")
