"""Training with ``distill_model=``: only the student's gates count, and its checkpoint stands alone."""

import csv
import logging
import shutil
from typing import Any

import pytest
import torch
import ultralytics
from conftest import REPO
from helpers import since
from ultralytics import YOLO
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils import ASSETS, LOGGER
from ultralytics.utils.checks import check_version

import ela_yolo
from ela_yolo import ELA, InputError
from ela_yolo.parity.export import export_and_compare
from ela_yolo.plugin import register

register()
LAYERS = ["3", "6", "9", "12"]


@pytest.fixture
def teach(retrained, tmp_path, caplog):
    """Train a student beside a teacher whose gates vary; return the run's folder and what is said of ELA."""

    def train(student):
        teacher = shutil.copy(retrained / "weights/best.pt", tmp_path / "teacher.pt")
        model: Any = YOLO(student)
        wrapped = []
        model.add_callback("on_train_start", lambda trainer: wrapped.append(type(trainer.model)))
        small = {"fraction": 0.03, "imgsz": 64, "batch": 4, "nbs": 4, "epochs": 1, "workers": 0, "plots": False}
        LOGGER.addHandler(caplog.handler)
        with caplog.at_level(logging.INFO, logger=LOGGER.name):
            model.train(data=str(REPO / "datasets/scenes.yaml"), distill_model=teacher, project=str(tmp_path), **small)
        LOGGER.removeHandler(caplog.handler)
        assert wrapped == [DistillationModel]
        (tmp_path / "teacher.pt").unlink()
        return model.trainer.save_dir, [line for line in caplog.messages if line.startswith("ela-yolo: to measure")]

    return train


def test_the_gates_of_the_student_count_and_its_checkpoint_stands_alone(plain, teach, tmp_path):
    ela_yolo.insert(plain, gate="identity", save=tmp_path / "student.pt")
    folder, said = teach(tmp_path / "student.pt")
    with (folder / "ela.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert {key.split("/")[1] for key in row if key != "epoch"} == {*LAYERS}
    assert all(float(row[f"ela/{layer}/spread"]) < 0.005 for layer in LAYERS)  # those of the teacher vary more
    assert len(said) == 1

    student = YOLO(folder / "weights/best.pt")
    assert type(student.model).__name__ == "DetectionModel"
    assert [block.gate for block in student.model.modules() if isinstance(block, ELA)] == 4 * ["identity"]
    own, whole = YOLO(tmp_path / "student.pt").model.state_dict(), student.model.state_dict()
    assert whole.keys() == own.keys()
    assert any(not torch.equal(own[name], whole[name]) for name in own)
    student.predict(ASSETS / "bus.jpg", imgsz=64, verbose=False)
    images = [ASSETS / "bus.jpg", ASSETS / "zidane.jpg"]
    file, report = export_and_compare(student, {"format": "onnx", "imgsz": 64}, images)
    assert file.is_file() and not report.mismatches and not report.nonfinite
    assert {part.verdict for part in report.outputs} <= {"same", "too alike"}  # of a training of one epoch


@since("8.4.166")
def test_a_student_without_ela_has_no_table(plain, teach):
    folder, said = teach(plain)
    assert not (folder / "ela.csv").exists() and said == []


@pytest.mark.skipif(
    check_version(ultralytics.__version__, ">=8.4.166"), reason="this Ultralytics finds both models' layers"
)
def test_an_older_release_refuses_a_teacher_with_its_blocks_elsewhere(plain, teach):
    with pytest.raises(InputError, match=r"would compare the wrong layers; update it to 8\.4\.166"):
        teach(plain)
