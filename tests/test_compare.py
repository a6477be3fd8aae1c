"""Models compared over seeds: real runs, killed and gone on with, and statistics against brute force."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import psutil
import pytest
from conftest import HOME, RUN, forked_python, once, python
from ultralytics import YOLO, __version__
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.checks import check_version

from ela_yolo.errors import CheckpointError, CompareError, InputError
from ela_yolo.study.compare import compare, refuse_unlike
from ela_yolo.study.runs import SeedRun, check_engine, run_all
from ela_yolo.study.worker import SCHEMA
from ela_yolo.util.json import write_json

MODELS = ["yolov8n.yaml", "yolov8n-ela.yaml"]
KEYS: dict[str, Any] = {"epochs": 1, "fraction": 0.05, "imgsz": 64, "batch": 8, "workers": 0}
TINY = f"""
from ela_yolo.study.compare import compare, refuse_unlike
result = compare({MODELS}, "scenes.yaml", SEEDS, "compare", ENGINE, **{KEYS})
print(result)
result.save("compare")
"""


def tiny(seeds, engine=None):
    return TINY.replace("SEEDS", repr(seeds)).replace("ENGINE", repr(engine))


def killed(folder, kill, ready, meanwhile=lambda: None):
    """Start the comparison, and kill it once `ready()` and after `meanwhile()`; return what it had started."""
    command = [sys.executable, "-c", tiny([0])]
    driver = subprocess.Popen(command, cwd=folder, start_new_session=True, stdout=-1, stderr=-1)
    deadline = time.time() + 100
    while not ready():
        assert driver.poll() is None and time.time() < deadline, driver.communicate()
        time.sleep(0.05)
    meanwhile()
    assert driver.poll() is None
    children = psutil.Process(driver.pid).children()
    kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    return children


def state(file):
    return file.stat().st_mtime_ns, file.read_bytes()


@pytest.fixture(scope="module")
def compared():
    """A comparison that was killed in its first run and in its second, and then ran to its end; its folder, its output.

    The first time only the driver is killed: the run must not train on without it. While it lives, a second driver is
    refused the folder, also with other settings.
    """
    return RUN / "compared", once("compared", killed_twice)


def killed_twice(folder):
    runs = folder / "compare/runs"

    def second_driver():
        log = (runs / "yolov8n-0/log.txt").stat().st_ino
        for keys in (KEYS, {**KEYS, "epochs": 2}):
            refused = re.escape(f"another process runs a comparison in {folder}/compare; wait until it ends, or name")
            with pytest.raises(CompareError, match=refused):
                compare(MODELS, "scenes.yaml", [0], folder / "compare", **keys)
        assert (runs / "yolov8n-0/log.txt").stat().st_ino == log  # it did not start the run anew

    orphans = killed(folder, os.kill, (runs / "yolov8n-0/log.txt").is_file, second_driver)
    assert len(orphans) == 1
    _, alive = psutil.wait_procs(orphans, timeout=30)
    assert not alive and not (runs / "yolov8n-0/run.json").exists()
    second = runs / "yolov8n-ela-0"
    killed(folder, os.killpg, lambda: (second / "args.yaml").is_file())  # Ultralytics writes it as it starts to train
    first = runs / "yolov8n-0/run.json"
    assert first.is_file() and not (second / "run.json").exists()
    before = state(first), state(runs / "yolov8n-0/weights/last.pt")
    printed = forked_python(tiny([0]), cwd=folder).stdout
    assert (state(first), state(runs / "yolov8n-0/weights/last.pt")) == before
    assert printed.startswith(f"1 of 2 runs are finished in {folder}/compare, and kept\n2/2 yolov8n-ela seed 0: 0.")
    return printed


def test_a_trained_model_is_not_trained_again(compared, tmp_path):
    """If its validation failed, or was interrupted."""
    folder = shutil.copytree(compared[0] / "compare", tmp_path / "compare")
    run = folder / "runs/yolov8n-ela-0"
    before, weights = json.loads((run / "run.json").read_text()), state(run / "weights/last.pt")
    (run / "run.json").unlink()
    compare(MODELS, "scenes.yaml", [0], folder, **KEYS)
    after = json.loads((run / "run.json").read_text())
    assert state(run / "weights/last.pt") == weights and after["seconds"] > before["seconds"] / 2
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


def test_what_a_comparison_leaves(compared):
    folder, printed = compared
    out = folder / "compare"
    assert {each.name for each in out.iterdir()} == {
        *(".lock", "runs", "settings.json", "compare.md", "compare.tex", "compare.csv", "compare.json", "compare.png")
    }
    assert {each.name for each in (out / "runs").iterdir()} == {"yolov8n-0", "yolov8n-ela-0"}
    run = json.loads((out / "runs/yolov8n-ela-0/run.json").read_text(encoding="utf-8"))
    # Older releases tell no classes where nothing is found.
    told = run["score"] > 0 or check_version(__version__, ">=8.3.164")
    assert run["classes"].keys() == ({"ball", "cube", "leaf", "ring", "star"} if told else set())
    assert len(run["epochs"]) == 1
    assert run["sizes"].keys() == run["objects"].keys() == {"small", "medium", "large"}
    assert len(run["resampled"]) == 300 and sum(run["objects"].values()) > 100
    plain = json.loads((out / "runs/yolov8n-0/run.json").read_text(encoding="utf-8"))
    assert plain["without_attention"] is None and 0 <= run["without_attention"] <= 1
    args = (out / "runs/yolov8n-ela-0/args.yaml").read_text(encoding="utf-8")
    for line in ("patience: 0", "seed: 0", "plots: false", "epochs: 1", "imgsz: 64"):
        assert line in args.splitlines()
    settings = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    assert settings["models"].keys() == {"yolov8n", "yolov8n-ela"}
    assert settings["shared"].items() >= {**KEYS, "data": "scenes.yaml"}.items()
    table = (out / "compare.md").read_text(encoding="utf-8")
    assert table in printed + "\n" and "nothing can be said with 1 seed;" in table
    five_classes = DetectionModel("yolov8n-ela.yaml", nc=5, verbose=False)
    count = sum(parameter.numel() for parameter in five_classes.parameters())
    assert re.search(rf"^\| yolov8n-ela \|.*\| {count:,} \| [\d.]+ \|$", table, re.M)
    with (out / "compare.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"]) for row in rows] == [("yolov8n", "0"), ("yolov8n-ela", "0")]
    assert float(rows[1]["mAP50-95"]) == run["score"] == run["metrics"]["metrics/mAP50-95(B)"]
    found = json.loads((out / "compare.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert found["schema"] == SCHEMA and found["verdicts"][0] in table
    assert [each["score"] for each in found["runs"]] == [float(row["mAP50-95"]) for row in rows]
    assert cv2.imread(str(out / "compare.png")).std() > 10


def test_checkpoints_that_carry_unlike_keys_are_refused(retrained, tmp_path):
    """Trained at 96 px, it would train on at 96, and the other at 640."""
    with pytest.raises(InputError, match=r"^imgsz differs between the models: best with 96, yolov8n with 640; set it"):
        compare([retrained / "weights/best.pt", "yolov8n.yaml"], "scenes.yaml", [0], tmp_path / "out", epochs=1)
    assert not (tmp_path / "out").exists()


def test_a_run_without_numbers_reads_back_as_one_and_is_refused(tmp_path):
    """As it is written: null, which JSON has, and not NaN, which it has not."""
    nan = float("nan")
    sizes, objects = {"small": 0.5, "medium": nan, "large": nan}, {"small": 3, "medium": 0, "large": 0}
    score = {"metrics/mAP50-95(B)": nan}
    run = SeedRun("a", 0, nan, nan, score, {"cat": nan}, sizes, objects, (nan, 0.5), (nan,), 9, 1.5, 60, 64, 8)
    numbers = {key: value for key, value in asdict(run).items() if key not in ("model", "seed")}
    (tmp_path / "runs/a-0").mkdir(parents=True)
    write_json(tmp_path / "runs/a-0/run.json", {"schema": SCHEMA, **numbers})
    (read,) = run_all({"a": "a.yaml"}, "x.yaml", "val", [0], tmp_path, None, {})
    assert repr(read) == repr(run)
    with pytest.raises(CompareError, match="a with seed 0 has no score"):
        refuse_unlike([read])


def test_a_classifier_is_compared_by_its_accuracy(tmp_path):
    """Its data set is a folder, and nothing is known of each image, so there is no interval over images."""
    images = sorted((HOME / "datasets/ela-yolo-scenes/images/val").iterdir())[:8]
    for number, image in enumerate(images):
        for split in ("train", "val", "test"):
            folder = tmp_path / "classes" / split / f"class-{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder)
    keys: dict[str, Any] = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0}
    models = ["yolov8n-cls.yaml", "yolov8n-ela-cls.yaml"]
    result = compare(models, tmp_path / "classes", [0], tmp_path / "out", split="test", **keys)
    assert (
        result.metric == "top-1 accuracy"
        and result.runs[1].resampled == ()
        and result.differences[0].images_low is None
    )
    assert {"metrics/accuracy_top1", "metrics/accuracy_top5"} <= result.runs[0].metrics.keys()
    assert len(result.runs[0].epochs) == 1 and 0 <= result.runs[1].without_attention <= 1
    head = "|  | top-1 accuracy | top-5 accuracy | top-1 accuracy without attention | parameters"
    assert str(result).startswith(head)
    assert "(test), seeds 0, 64 px" in str(result)
    result.save(tmp_path / "out")


@pytest.mark.nightly
def test_a_segmenter_is_compared_by_its_masks(tmp_path):
    """Trained on the boxes of the scenes, as polygons."""
    folder = HOME / "datasets/ela-yolo-scenes"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for image in sorted((folder / "images" / split).iterdir())[:4]:
            shutil.copy(image, tmp_path / "images" / split)
            lines = (folder / "labels" / split / image.with_suffix(".txt").name).read_text().splitlines()
            corners = []
            for kind, x, y, w, h in (map(float, line.split()) for line in lines):
                ends = (x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2)
                corners.append(f"{int(kind)} {' '.join(map(str, ends))}")
            (tmp_path / "labels" / split / image.with_suffix(".txt").name).write_text("\n".join(corners))
    data = {"path": str(tmp_path), "train": "images/train", "val": "images/val", "names": list("abcde")}
    (tmp_path / "data.yaml").write_text(json.dumps(data))
    keys: dict[str, Any] = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0}
    result = compare(
        ["yolov8n-seg.yaml", "yolov8n-ela-seg.yaml"], tmp_path / "data.yaml", [0], tmp_path / "out", **keys
    )
    assert result.metric == "mask mAP50-95" and len(result.runs[0].resampled) == 300 and not result.runs[0].objects
    assert result.runs[0].score == result.runs[0].metrics["metrics/mAP50-95(M)"]
    assert "| mask mAP50-95 of | yolov8n-seg | yolov8n-ela-seg |" in str(result)


@pytest.mark.nightly
@pytest.mark.usefixtures("raytune")
def test_more_seeds_join_by_ray(compared):
    folder, _ = compared
    finished = [folder / f"compare/runs/{name}-0/run.json" for name in ("yolov8n", "yolov8n-ela")]
    before = [state(file) for file in finished]
    printed = python(tiny([0, 1], "ray"), cwd=folder).stdout
    assert "nothing can be said with 2 seeds;" in printed and " ± " in printed
    assert [state(file) for file in finished] == before
    assert len([*folder.glob("compare/runs/*-1/run.json")]) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"imgsz": 96}, "holds runs with imgsz=64, not 96; name another folder with out="),
        ({"lr0": 0.1}, r"holds runs with lr0=0\.01, not 0\.1; name another folder with out="),
        ({"split": "test"}, "holds runs with split=val, not test; name another folder with out="),
    ],
)
def test_other_settings_are_refused(changed, message, compared, monkeypatch):
    folder, _ = compared
    monkeypatch.chdir(folder)
    monkeypatch.setattr("ela_yolo.study.compare.data_images", lambda *_: [])  # the scenes have no test images
    before = state(folder / "compare/settings.json")
    with pytest.raises(InputError, match=message):
        compare(MODELS, **{"data": "scenes.yaml", "seeds": [0], **KEYS, **changed})
    assert state(folder / "compare/settings.json") == before


def test_another_model_of_the_same_name_is_refused(compared, monkeypatch, tmp_path):
    folder, _ = compared
    monkeypatch.chdir(folder)
    original = Path(str(sys.modules["ultralytics"].__file__)).parent / "cfg/models/v8/yolov8.yaml"
    other = tmp_path / "yolov8n.yaml"
    other.write_text(original.read_text(encoding="utf-8") + "\n# mine\n")
    with pytest.raises(InputError, match="holds runs of another yolov8n; rename the file, or name another folder"):
        compare([other, MODELS[1]], "scenes.yaml", [0], **KEYS)


def test_failed_runs_are_named_with_their_logs(tmp_path, capsys):
    """And the file that a key names is part of what all runs share."""
    weights = tmp_path / "teacher.pt"
    YOLO("yolov8n.yaml").save(weights)
    keys = {"device": "7", "distill_model": str(weights), **KEYS}
    with pytest.raises(CompareError) as failed:
        compare(MODELS, "scenes.yaml", [0], tmp_path / "out", **keys)
    log = tmp_path / "out/runs/yolov8n-0/log.txt"
    assert re.fullmatch(
        rf"yolov8n with seed 0 failed: .*; see {log} \(1 more failed\); run the same command .*", str(failed.value)
    )
    assert "Invalid CUDA 'device=7' requested" in log.read_text(encoding="utf-8")
    assert capsys.readouterr().out.splitlines()[-1].startswith("2/2 yolov8n-ela seed 0: failed")
    YOLO("yolov8n-ela.yaml").save(weights)
    with pytest.raises(InputError, match=r"holds runs with sha256 of distill_model=.*; name another folder with out="):
        compare(MODELS, "scenes.yaml", [0], tmp_path / "out", **keys)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"models": MODELS[:1]}, InputError, "name two models or more"),
        ({"models": [MODELS[0], "yolov8n-elo.yaml"]}, InputError, "did you mean 'yolov8n-ela.yaml'"),
        ({"models": [MODELS[0], "best.pt"]}, CheckpointError, "there is no best.pt"),
        ({"models": [MODELS[0], MODELS[0]]}, InputError, "would both be called yolov8n; rename one"),
        ({"pretrained": "none.pt"}, CheckpointError, "there is no none.pt"),
        (
            {"models": [MODELS[0], "yolov8n-ela-seg.yaml"]},
            InputError,
            "the models must have the same task, but",
        ),
        ({"data": "no.yaml"}, InputError, "there is no data=no.yaml"),
        ({"data": "photographs"}, InputError, "is not a data-set YAML"),
        ({"seeds": []}, InputError, "seeds must be whole numbers"),
        ({"seeds": [0, 0.5]}, InputError, "seeds must be whole numbers from 0 such as 0,1,2, got 0,0.5"),
        ({"seeds": [1, 1]}, InputError, "seeds=1,1: a seed is listed twice"),
        ({"seeds": range(21)}, InputError, "21 seeds are more than .* at most 20"),
        ({"engine": "dask"}, InputError, "engine=dask is unknown"),
        ({"engine": "ray", "device": 0}, InputError, "leave device= out"),
        ({"seed": 3}, InputError, "seed= cannot be set in a comparison: seeds= names them"),
        ({"patience": 3}, InputError, "every run trains all its epochs"),
        ({"time": 0.1}, InputError, "time= cannot be set in a comparison: every run trains all its epochs"),
        ({"freeze": 10}, InputError, "freeze= cannot be set in a comparison: it counts layers"),
        ({"val": False}, InputError, "val= cannot be set in a comparison"),
        ({"batch": -1}, InputError, "batch=-1 would differ between the models"),
        ({"epochz": 3}, InputError, "epochz"),
        ({"cfg": "keys.yaml"}, InputError, "cfg= cannot be set in a comparison: name the keys themselves"),
        ({"split": "train"}, InputError, "split must be val or test, got 'train'"),
        ({"split": "test"}, InputError, "data=scenes.yaml: scenes.yaml 'test:' images not found"),
        ({"epochs": "many"}, InputError, "epochs"),
        ({"out": HOME}, InputError, "exists and is not the folder of a comparison; name another folder with out="),
    ],
)
def test_bad_input_is_one_line(changed, error, message, tmp_path):
    with pytest.raises(error, match=message) as raised:
        compare(**{"models": MODELS, "data": "scenes.yaml", "seeds": [0], "out": tmp_path / "out", **changed})
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 4}, r"b with seed 0 trained with batch 4, and others with 8; take batch=4 and another out="),
        ({"score": float("nan")}, r"b with seed 0 has no score, so its training failed"),
    ],
)
def test_runs_that_are_not_alike_are_not_compared(change, message):
    run = SeedRun("a", 0, 0.5, 0.5, {}, {}, {}, {}, (), (), 9, 1.5, 60, 64, 8)
    refuse_unlike([run, replace(run, seed=1)])
    with pytest.raises(CompareError, match=message):
        refuse_unlike([run, replace(run, model="b", **change)])


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CompareError, match=r"^engine=ray needs Ray: .* -m pip install 'ray\[tune\]'$"):
        check_engine("ray", {})
