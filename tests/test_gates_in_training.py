"""What is written down of the gates while a model with ELA is trained, by the stock command."""

import csv
import shlex

import cv2
import pytest
from conftest import BIN, FEW, forked, forked_python

KEYS = (f"data={FEW}", "fraction=0.05", "imgsz=64", "batch=4", "workers=0")


def train(folder, *keys, **kwargs):
    return forked(BIN / "yolo", "train", *KEYS, *keys, f"project={folder}", "name=run", cwd=folder, **kwargs)


def python(code, folder):
    """Run Python code in which DATA stands for the data set and PLACE for the folder."""
    return forked_python(code.replace("DATA", repr(str(FEW))).replace("PLACE", repr(str(folder))), cwd=folder)


def rows(folder, name):
    with (folder / "run" / name).open() as file:
        return list(csv.DictReader(file, skipinitialspace=True))


def test_a_row_for_each_epoch_and_a_picture_and_what_to_do_next(tmp_path):
    tmp_path /= "two words"
    tmp_path.mkdir()
    done = train(tmp_path, "model=yolov8n-ela.yaml", "epochs=3", "val=False", "nbs=4")
    found = rows(tmp_path, "ela.csv")
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    assert list(found[0]) == [
        "epoch",
        *(f"ela/{layer}/{figure}" for layer in (3, 6, 9, 12) for figure in ("mean", "spread")),
    ]
    assert all(0 < float(row["ela/3/mean"]) < 1 and float(row["ela/3/spread"]) >= 0 for row in found)
    assert found[0]["ela/3/mean"] != found[2]["ela/3/mean"]
    assert cv2.imread(str(tmp_path / "run/ela.png")).std() > 10
    _, *told = done.stdout.split("ela-yolo: to measure what attention contributes: ")
    command = ["ela-yolo", "ablate", f"model={tmp_path}/run/weights/best.pt", f"data={FEW}"]
    assert [shlex.split(each.splitlines()[0]) for each in told] == [command]
    # Ultralytics' own table has its own columns alone, in every row.
    lines = (tmp_path / "run/results.csv").read_text().splitlines()
    assert "ela/" not in lines[0] and len({line.count(",") for line in lines}) == 1 and len(lines) == 4


def test_ultralytics_loggers_get_the_figures_too(tmp_path):
    code = """
from ultralytics import YOLO
logged = []
model = YOLO("yolov8n-ela.yaml")
model.add_callback("on_fit_epoch_end", lambda trainer: logged.append(sorted(k for k in trainer.metrics if "ela/" in k)))
model.train(data=DATA, fraction=0.05, imgsz=64, batch=4, workers=0, epochs=2, plots=False, project=".")
print([len(keys) for keys in logged], logged[0][:2])
"""
    printed = python(code, tmp_path).stdout
    assert printed.splitlines()[-1] == "[8, 8, 0] ['ela/12/mean', 'ela/12/spread']"


def test_training_is_the_same_with_and_without(tmp_path):
    for folder, value in (("with", "1"), ("without", "0")):
        (tmp_path / folder).mkdir()
        train(tmp_path / folder, "model=yolov8n-ela.yaml", "epochs=2", "plots=False", env={"ELA_YOLO_MONITOR": value})
    assert not (tmp_path / "without/run/ela.csv").exists() and not (tmp_path / "with/run/ela.png").exists()
    losses = [
        [(row["train/box_loss"], row["val/cls_loss"]) for row in rows(tmp_path / each, "results.csv")]
        for each in ("with", "without")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("model", ["yolov8n.yaml"])
def test_a_model_without_ela_has_no_table(tmp_path, model):
    train(tmp_path, f"model={model}", "epochs=1", "plots=False")
    assert not (tmp_path / "run/ela.csv").exists()


def test_resuming_goes_on_in_the_same_table_and_a_new_training_begins_another(tmp_path):
    stop = """
from ultralytics import YOLO
model = YOLO("yolov8n-ela.yaml")
def stop(trainer):
    if trainer.epoch == 1:
        raise SystemExit
model.add_callback("on_train_epoch_start", stop)
keys = dict(data=DATA, fraction=0.05, imgsz=64, batch=4, workers=0, epochs=3, plots=False)
model.train(**keys, project=PLACE, name="run")
"""
    python(stop, tmp_path)
    assert [row["epoch"] for row in rows(tmp_path, "ela.csv")] == ["1"]
    forked(BIN / "yolo", "train", f"model={tmp_path}/run/weights/last.pt", "resume=True", cwd=tmp_path)
    assert [row["epoch"] for row in rows(tmp_path, "ela.csv")] == ["1", "2", "3"]
    train(tmp_path, "model=yolov8n-ela.yaml", "epochs=1", "plots=False", "exist_ok=True")
    assert [row["epoch"] for row in rows(tmp_path, "ela.csv")] == ["1"]


def test_what_cannot_be_written_does_not_end_the_training(tmp_path):
    code = """
from pathlib import Path
from ultralytics import YOLO
model = YOLO("yolov8n-ela.yaml")
model.add_callback("on_train_start", lambda trainer: Path(trainer.save_dir, "ela.csv").mkdir())
model.train(data=DATA, fraction=0.05, imgsz=64, batch=4, workers=0, epochs=2, plots=False, project=".")
print(Path(model.trainer.save_dir, "weights/last.pt").is_file())
"""
    done = python(code, tmp_path)
    assert done.stdout.splitlines()[-1] == "True"
    assert (done.stdout + done.stderr).count("the gates are no longer recorded") == 1


def test_a_failure_within_a_forward_and_a_batch_that_ran_out_of_memory_do_no_harm(tmp_path):
    code = """
import ela_yolo.gates.training
from ela_yolo.ela import ELA
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
heard = []
measure = ela_yolo.gates.training.gates_of
def count(*args):
    heard.append(1)
    if len(heard) == 6:
        raise RuntimeError("the sixth fails")
    return measure(*args)
ela_yolo.gates.training.gates_of = count
prepare, failed = DetectionTrainer.preprocess_batch, []
def once(self, batch):
    if not failed:
        failed.append(1)
        raise RuntimeError("CUDA out of memory")
    return prepare(self, batch)
DetectionTrainer.preprocess_batch = once
hooks = []
model = YOLO("yolov8n-ela.yaml")
count_hooks = lambda trainer: hooks.append(
    sum(len(m._forward_hooks) for m in trainer.model.modules() if isinstance(m, ELA)))
model.add_callback("on_train_epoch_end", count_hooks)
keys = dict(data=DATA, fraction=0.05, imgsz=64, batch=8, workers=0, epochs=3, plots=False)
model.train(**keys, project=PLACE, name="run")
print(hooks, len(heard), failed)
"""
    done = python(code, tmp_path)
    # The sixth, the second of the second epoch, takes the hooks of that epoch away, and what the fifth gave.
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] 10 [1]"
    assert (done.stdout + done.stderr).count("the gates of this epoch are not recorded") == 1
    assert [row["epoch"] for row in rows(tmp_path, "ela.csv")] == ["1", "3"]
