"""What a user names is refused where Ultralytics could not use it, and nowhere else."""

from pathlib import Path

import pytest
import ultralytics
import yaml
from conftest import REPO
from ultralytics.nn.tasks import yaml_model_load

from ela_yolo import CheckpointError, InputError
from ela_yolo.host.lookup import check_data, check_model, check_rows, find_model
from ela_yolo.util.text import one_line

ULTRALYTICS = Path(ultralytics.__file__).parent
YAMLS = [*sorted((ULTRALYTICS / "cfg/models").rglob("*.yaml")), *sorted((REPO / "cfg").glob("*.yaml"))]


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
def test_what_ultralytics_finds_or_fetches_passes(model, tmp_path, monkeypatch):
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


def test_the_file_is_the_one_that_ultralytics_takes(tmp_path):
    """With and without its scale in the name; Ultralytics' order has changed."""
    assert find_model("yolov8n-ela.yaml") == REPO / "cfg/yolov8-ela.yaml"
    text = (REPO / "cfg/yolov8-ela.yaml").read_text()
    for name, classes in (("yolov8s-own.yaml", 3), ("yolov8-own.yaml", 4)):
        (tmp_path / name).write_text(text.replace("nc: 80", f"nc: {classes}"))
    taken = yaml_model_load(tmp_path / "yolov8s-own.yaml")
    assert yaml.safe_load(find_model(tmp_path / "yolov8s-own.yaml").read_text())["nc"] == taken["nc"]
    (tmp_path / "yolov8s-own.yaml").unlink()
    assert find_model(tmp_path / "yolov8s-own.yaml") == tmp_path / "yolov8-own.yaml"


def test_what_ultralytics_reads_leniently_passes(tmp_path):
    text = (REPO / "cfg/yolov8-ela.yaml").read_text()
    for number, comment in enumerate((b"# caf\xe9\n", b"# bell \x07\n")):
        file = tmp_path / f"yolov8n-{number}.yaml"
        file.write_bytes(comment + text.encode())
        assert yaml_model_load(file)["nc"] == 80
        check_model(str(file))


def test_weights_in_ultralytics_folder_pass(tmp_path, monkeypatch):
    from ultralytics.utils import SETTINGS

    (tmp_path / "mine.pt").touch()
    monkeypatch.setitem(SETTINGS, "weights_dir", str(tmp_path))
    check_model("mine.pt")


def test_the_split_that_is_asked_for_is_looked_at(tmp_path):
    (tmp_path / "images").mkdir()
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images\nval: none\ntest: images\nnames: [a]\n")
    check_data(str(data), "test")
    with pytest.raises(InputError, match="images not found"):
        check_data(str(data))
    with pytest.raises(InputError, match=r"there is no data=none\.yaml"):
        check_data("none.yaml")


def test_the_suggestion_has_the_scale_that_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"did you mean 'yolo11s-ela\.yaml'"):
        find_model("yolo11s-elaa.yaml")


def test_messages_of_ultralytics_lose_their_colours():
    error = RuntimeError("\x1b[31m\x1b[1mDataset 'x' error ❌ 'train:' key missing ❌.\nmore")
    assert one_line(error) == "Dataset 'x' error 'train:' key missing. more"
    assert one_line(KeyError()) == "KeyError"
