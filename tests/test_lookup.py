"""What a user names is refused where Ultralytics could not use it, and nowhere else."""

from pathlib import Path

import pytest
import yaml
from conftest import REPO
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils.checks import check_yaml

import ela_yolo
from ela_yolo import CheckpointError, InputError, ModelYamlError
from ela_yolo.host.lookup import check_data, find_model, open_model
from ela_yolo.util.text import one_line


@pytest.mark.parametrize(
    "model",
    [
        *("yolov8n.pt", "yolo26n", "yolov5s.pt", "rtdetr-l.pt"),
        *("yolov8n.yaml", "yolov8n-seg.yaml", "yolov8x6.yaml", "yolo26s-ela.yaml"),
    ],
)
def test_what_ultralytics_finds_or_fetches_is_found(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = {"yolo26n": "yolo26n.pt", "yolov5s.pt": "yolov5su.pt"}.get(model, model)
    assert find_model(model).name == expected or find_model(model).is_file()


@pytest.mark.parametrize("model", ["best.pt", "yolov8n-elaa.yaml"])
def test_what_is_not_there_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((CheckpointError, InputError), match=f"there is no {model}"):
        find_model(model)


@pytest.mark.parametrize("model", ["nothing", "none.onnx", "model.txt"])
def test_other_files_are_refused(model):
    with pytest.raises(InputError, match=f"{model} is neither a model YAML nor a checkpoint"):
        find_model(model)


@pytest.mark.parametrize("rows", ["[[-1, 1]]", "none"])
def test_a_yaml_that_ultralytics_cannot_build_is_one_error(rows, tmp_path):
    file = tmp_path / "yolov8n-mine.yaml"
    file.write_text(f"nc: 1\nbackbone: {rows}\nhead: []\n")
    with pytest.raises(ModelYamlError, match=r"mine\.yaml holds a model that Ultralytics cannot build; correct it \("):
        open_model(file)


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


def test_weights_in_ultralytics_folder_are_found(tmp_path, monkeypatch):
    from ultralytics.utils import SETTINGS

    (tmp_path / "mine.pt").touch()
    monkeypatch.setitem(SETTINGS, "weights_dir", str(tmp_path))
    assert find_model("mine.pt") == tmp_path / "mine.pt"


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


def test_a_users_own_file_comes_before_a_former_name_of_ultralytics(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("WARNING", logger="ultralytics"):
        assert find_model("yolov5s6.yaml").name == "yolov5-p6.yaml"
        assert "ela-yolo: Ultralytics reads yolov5s-p6.yaml instead of yolov5s6.yaml" in caplog.text
        assert find_model("yolov5s.pt").name == "yolov5su.pt"
        assert "ela-yolo: Ultralytics reads yolov5su.pt instead of yolov5s.pt" in caplog.text
    Path("yolov5s6.yaml").write_text(Path(check_yaml("yolov8.yaml")).read_text())
    assert find_model("yolov5s6.yaml") == Path("yolov5s6.yaml")
    assert [*ela_yolo.insert("yolov5s6.yaml").stages] == [2, 4, 6, 8]
    with pytest.raises(ModelYamlError, match="which reads its own file instead; rename yours"):
        open_model("yolov5s6.yaml")


def test_an_unknown_module_is_not_taken_for_another_block(tmp_path):
    rows = "- [-1, 1, Conv, [32, 3, 2]]\n  - [-1, 1, EMA, []]\n"
    (tmp_path / "ema.yaml").write_text(f"nc: 2\nbackbone:\n  {rows}head:\n  - [[1], 1, Detect, [nc]]\n")
    with pytest.raises(
        ModelYamlError, match="names EMA, which is not a module of Ultralytics; a YAML that uses it needs"
    ):
        open_model(tmp_path / "ema.yaml")
