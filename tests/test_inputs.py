"""What a user names is refused where the host could not use it, and nowhere else."""

from pathlib import Path

import pytest
import ultralytics
from conftest import REPO

from ela_yolo import CheckpointError, InputError
from ela_yolo.inputs import check_inputs, check_model, check_rows, find_model, plain

HOST = Path(ultralytics.__file__).parent
YAMLS = [*sorted((HOST / "cfg/models").rglob("*.yaml")), *sorted((REPO / "cfg").glob("*.yaml"))]


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: file.stem)
def test_every_model_yaml_that_comes_along_passes(file):
    check_rows(file)


@pytest.mark.parametrize(
    "model",
    [
        *(
            "yolov8n.pt",
            "yolo26n",
            "yolov5s.pt",
            "rtdetr-l.pt",
            "sam_b.pt",
            "sub/yolov8n.pt",
            "https://x.org/y.pt",
            "ul://a/b",
        ),
        *(
            "yolov8n.yaml",
            "yolov8n-seg.yaml",
            "yolov8x6.yaml",
            "yolo26s-ela.yaml",
            "exported_openvino_model",
            "here.onnx",
        ),
    ],
)
def test_what_the_host_finds_or_fetches_passes(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported_openvino_model").mkdir()
    (tmp_path / "here.onnx").touch()
    check_model(model)


@pytest.mark.parametrize("model", ["best.pt", "nothing", "none.onnx", "yolov8n-elaa.yaml", "model.txt"])
def test_what_is_not_there_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((CheckpointError, InputError), match=f"there is no {model}"):
        check_model(model)


def test_a_folder_that_looks_like_a_scale_is_told_only_where_it_matters(tmp_path):
    folder = tmp_path / "run2s"
    folder.mkdir()
    text = (REPO / "cfg/yolov8-ela.yaml").read_text()
    (folder / "yolov8-mine.yaml").write_text(text)
    with pytest.raises(InputError, match=r"rename the folder, or the file yolov8-mine\.yaml to yolov8n-mine\.yaml"):
        check_model(str(folder / "yolov8n-mine.yaml"))
    (folder / "yolov8n-mine.yaml").write_text(text)
    check_model(str(folder / "yolov8n-mine.yaml"))
    check_model(str(folder / "yolov8-mine.yaml"))


def test_data_is_looked_at_where_it_is_read_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"model": "yolov8n.yaml", "data": "none.yaml"}
    for command in ("predict", "track", "export"):
        check_inputs(command, given)
    for command in ("train", "val", "tune", "quickstart"):
        with pytest.raises(InputError, match=r"there is no data=none\.yaml"):
            check_inputs(command, given)
    check_inputs("train", {"model": "yolov8n-cls.yaml", "data": "folder", "resume": True, "pretrained": False})


def test_the_nearest_scale_is_found_as_the_host_does(tmp_path):
    assert find_model("yolov8n-ela.yaml") == REPO / "cfg/yolov8-ela.yaml"
    (tmp_path / "yolov8s-own.yaml").touch()
    assert find_model(tmp_path / "yolov8s-own.yaml") == tmp_path / "yolov8s-own.yaml"


def test_messages_of_the_host_lose_their_colours():
    assert (
        plain("\x1b[31m\x1b[1mDataset 'x' error ❌ 'train:' key missing ❌.\nmore")
        == "Dataset 'x' error 'train:' key missing ."
    )
