"""ELA put into trained checkpoints: nothing of them is lost, and they detect what they did."""

import json
import re
import shutil
import sys
from typing import Any

import cv2
import pytest
import torch
from conftest import BIN, SHARED, forked, forked_python
from torch import nn
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.utils import ASSETS

import ela_yolo
from ela_yolo import ELA, CheckpointError, ELAError, InputError, InsertionError, WeightTransfer

EVERY = len(YOLO("yolov8n.yaml").model.state_dict())  # 355, but for the oldest releases

ELA_YOLO = BIN / "ela-yolo"
COCO = SHARED / "weights/yolov8n.pt"
BCCD = SHARED / "data/bccd/bccd.yaml"
ONE_EPOCH = "epochs=1 fraction=0.1 imgsz=96 batch=8 nbs=8 workers=0 plots=False val=False"


def raw(file, size=640):
    """The raw outputs of a checkpoint on Ultralytics' own photographs and, where they are, some of the blood cells."""
    model = YOLO(file).model.eval()
    cells = sorted((BCCD.parent / "images/val").glob("*"))[: 8 if size == 640 else 2]
    files = [*sorted(ASSETS.glob("*.jpg")), *cells]
    outputs = []
    for photo in files:
        pixels = LetterBox((size, size))(image=cv2.imread(str(photo)))
        with torch.no_grad():
            outputs.append(model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255)[0])
    assert not torch.equal(outputs[0], outputs[1])
    return outputs


def same(first, second):
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize(
    "choice", [{}, {"where": "all"}, {"after": "P3,P4,P5", "where": "neck", "variant": "L"}], ids=str
)
def test_an_inserted_identity_detects_what_the_plain_model_does(choice, plain, tmp_path):
    result = ela_yolo.insert(plain, save=tmp_path / "inserted.pt", **choice)
    assert result.transfer == WeightTransfer(EVERY, EVERY, new_blocks=result.rows)
    assert all(same(raw(plain, 192), raw(tmp_path / "inserted.pt", 192)))


def test_step_0_on_real_weights_and_photographs(tmp_path):
    if not COCO.is_file() or not BCCD.is_file():
        pytest.skip(f"no COCO weights or photographs: {COCO} or {BCCD} is absent")
    ela_yolo.insert(COCO, after="C2f", save=tmp_path / "inserted.pt")
    outputs = raw(COCO)
    assert len(outputs) == 10
    assert all(same(outputs, raw(tmp_path / "inserted.pt")))
    ela_yolo.insert(COCO, after="C2f", gate="paper", save=tmp_path / "paper.pt")
    assert not any(same(outputs, raw(tmp_path / "paper.pt")))


VALIDATE = """
import json, sys
from ultralytics import YOLO
boxes = [YOLO(file).val(data=sys.argv[3], imgsz=int(sys.argv[4]), workers=0, plots=False).box for file in sys.argv[1:3]]
print(json.dumps([[box.map, box.map50, box.map75, *box.maps] for box in boxes]))
"""


def maps(original, inserted, data, size, cwd):
    done = forked(sys.executable, "-c", VALIDATE, original, inserted, data, size, cwd=cwd)
    return json.loads(done.stdout.splitlines()[-1])


def test_val_gives_the_same_map(plain, tmp_path):
    ela_yolo.insert(plain, save=tmp_path / "inserted.pt")
    original, inserted = maps(plain, tmp_path / "inserted.pt", "scenes.yaml", 96, tmp_path)
    assert original == inserted and original[0] > 0


def test_all_that_a_checkpoint_holds_survives(plain, tmp_path):
    before = torch.load(plain, weights_only=False)
    ela_yolo.insert(plain, save=tmp_path / "inserted.pt")
    after = torch.load(tmp_path / "inserted.pt", weights_only=False)
    assert before.keys() == after.keys()
    assert {k: v for k, v in before.items() if k != "model"} == {k: v for k, v in after.items() if k != "model"}
    assert after["train_args"]["imgsz"] == 96 and after["epoch"] == -1 and after["ema"] is None
    original, inserted = before["model"], after["model"]
    for attribute in ("names", "task", "args"):
        assert getattr(original, attribute, None) == getattr(inserted, attribute, None)
    assert len(inserted.names) == 5
    assert torch.equal(original.stride, inserted.stride) and torch.equal(
        original.model[-1].stride, inserted.model[-1].stride
    )
    assert {p.dtype for p in inserted.parameters()} == {p.dtype for p in original.parameters()} == {torch.float16}
    assert [layer.i for layer in original.model] == list(range(23)) and original.model[22].f == [15, 18, 21]
    assert [layer.i for layer in inserted.model] == list(range(27))
    assert inserted.model[26].f == [19, 22, 25] and set(inserted.model[26].f) <= set(inserted.save)
    assert (tmp_path / "inserted.pt").stat().st_mode == plain.stat().st_mode


def test_of_an_unfinished_training_the_running_average_is_taken(plain, tmp_path):
    whole = torch.load(plain, weights_only=False)
    unfinished = {**whole, "ema": whole["model"], "model": None, "optimizer": {"state": 1}, "updates": 7, "epoch": 3}
    torch.save(unfinished, tmp_path / "last.pt")
    assert ela_yolo.insert(tmp_path / "last.pt", save=tmp_path / "inserted.pt").transfer.kept == EVERY
    inserted = torch.load(tmp_path / "inserted.pt", weights_only=False)
    assert [inserted[key] for key in ("ema", "optimizer", "updates", "epoch")] == [None, None, None, -1]
    assert all(same(raw(plain, 192), raw(tmp_path / "inserted.pt", 192)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda checkpoint: checkpoint.update(modelopt={"state": 1}), "is quantized"),
        (lambda checkpoint: setattr(checkpoint["model"], "set_classes", 1), "is of YOLO-World or YOLOE"),
        (lambda checkpoint: checkpoint.update(model=nn.DataParallel(checkpoint["model"])), "holds a DataParallel, not"),
    ],
)
def test_what_could_not_be_trained_on_is_refused(change, message, plain, tmp_path):
    checkpoint = torch.load(plain, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        ela_yolo.insert(tmp_path / "odd.pt", save=tmp_path / "inserted.pt")
    assert not (tmp_path / "inserted.pt").exists()


def test_a_model_that_its_yaml_does_not_describe_is_refused(plain, tmp_path):
    for change, message in (
        (lambda rows: rows.insert(1, rows[2]), "differs from its own YAML, from layer 1 on"),
        (lambda rows: rows.append([-1, 1, "Mine", [8]]), "cannot build here (KeyError: 'Mine')"),
        (lambda rows: rows[2].append(3), "layer 2 is not a row"),
        (lambda rows: rows[2].__setitem__(3, [object()]), "YAML cannot be written"),
    ):
        checkpoint = torch.load(plain, weights_only=False)
        change(checkpoint["model"].yaml["backbone"])
        torch.save(checkpoint, tmp_path / "odd.pt")
        with pytest.raises(ELAError, match=re.escape(message)) as caught:
            ela_yolo.insert(tmp_path / "odd.pt", after=4, save=tmp_path / "inserted.pt")
        assert str(caught.value).startswith((str(tmp_path / "odd.pt"), "odd.pt"))
        assert not (tmp_path / "inserted.pt").exists()


def test_the_same_insertion_is_the_same_file_and_leaves_random_numbers_alone(plain, tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    ela_yolo.insert(plain, after="P2,P3,P4,P5", save=tmp_path / "a.pt")
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(2)
    ela_yolo.insert(plain, save=tmp_path / "b.pt")
    a, b = (YOLO(tmp_path / name).model.state_dict() for name in ("a.pt", "b.pt"))
    assert a.keys() == b.keys() and all(torch.equal(tensor, b[key]) for key, tensor in a.items())


@pytest.mark.parametrize("gate", ["paper", "residual"])
def test_the_other_gate_forms_remain_choices(gate, plain, tmp_path):
    ela_yolo.insert(plain, gate=gate, variant="S", save=tmp_path / "inserted.pt")
    blocks = [layer for layer in YOLO(tmp_path / "inserted.pt").model.model if isinstance(layer, ELA)]
    assert [(block.variant, block.gate) for block in blocks] == [("S", gate)] * 4
    assert not any(same(raw(plain, 192), raw(tmp_path / "inserted.pt", 192)))


def test_ela_that_is_there_is_kept(retrained, plain, tmp_path):
    best = retrained / "weights/best.pt"
    result = ela_yolo.insert(best, after="C2f", where="neck", save=tmp_path / "both.pt")
    assert result.rows == (17, 21, 25, 29)
    assert result.transfer == WeightTransfer(EVERY, EVERY, new_blocks=(17, 21, 25, 29), kept_blocks=(3, 6, 9, 12))
    assert all(same(raw(best, 192), raw(tmp_path / "both.pt", 192)))
    gates = [layer.gate for layer in YOLO(tmp_path / "both.pt").model.model if isinstance(layer, ELA)]
    assert gates == ["paper"] * 4 + ["identity"] * 4
    gone = ela_yolo.remove(tmp_path / "both.pt", save=tmp_path / "none.pt")
    assert gone.transfer == WeightTransfer(EVERY, EVERY, dropped_blocks=(3, 6, 9, 12, 17, 21, 25, 29))
    assert all(same(raw(plain, 192), raw(tmp_path / "none.pt", 192)))
    with pytest.raises(InsertionError, match="layer 2 C2f is followed by its ELA already"):
        ela_yolo.insert(best)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        pytest.param("yolov8n-seg", 417, marks=pytest.mark.nightly),
        ("yolov8n-cls", 158),
        ("yolo11n-pose", 541),
        ("yolo26n-obb", 792),
        ("yolov5n", 427),
        pytest.param("yolov9t", 1339, marks=pytest.mark.nightly),
        pytest.param("yolov10n", 595, marks=pytest.mark.nightly),
        pytest.param("yolo12n", 691, marks=pytest.mark.nightly),
    ],
)
def test_other_families_and_tasks(name, total, tmp_path):
    original = YOLO(f"{name}.yaml")
    original.save(tmp_path / "original.pt")
    result = ela_yolo.insert(tmp_path / "original.pt", where="all", save=tmp_path / "inserted.pt")
    assert result.transfer == WeightTransfer(total, total, new_blocks=result.rows)
    original, inserted = (YOLO(tmp_path / file) for file in ("original.pt", "inserted.pt"))
    assert original.task == inserted.task and original.names == inserted.names
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        outputs = [model.model.eval()(image) for model in (original, inserted)]
    first, second = (output if isinstance(output, torch.Tensor) else output[0] for output in outputs)
    while not isinstance(first, torch.Tensor):
        first, second = first[0], second[0]
    assert torch.equal(first, second)
    # Retraining builds the model anew from the YAML that the checkpoint holds.
    network: Any = inserted.model
    report = type(network)(network.yaml, verbose=False).load(network, verbose=False)
    assert (report.kept, report.kept_blocks) == (total, result.rows)


def test_the_stock_commands_take_what_insert_wrote(plain, tmp_path):
    forked(ELA_YOLO, "insert", f"model={plain}", "save=inserted.pt", cwd=tmp_path)
    folder = f"project={tmp_path}"
    keys = ["data=scenes.yaml", *ONE_EPOCH.split(), folder]
    train = forked(BIN / "yolo", "train", "model=inserted.pt", *keys, cwd=tmp_path)
    assert f"ELA: {EVERY}/{EVERY} pretrained tensors kept; 4 ELA kept (3, 6, 9, 12)" in train.stdout
    code = """
from ultralytics import YOLO
model = YOLO("train/weights/last.pt").model
print([bool(model.model[layer].gn.weight.any()) for layer in (3, 6, 9, 12)])
"""
    assert forked_python(code, cwd=tmp_path).stdout.splitlines()[-1] == "[True, True, True, True]"
    predict = forked(BIN / "yolo", "predict", "model=inserted.pt", f"source={ASSETS}/bus.jpg", folder, cwd=tmp_path)
    assert "bus.jpg" in predict.stdout
    export = forked(ELA_YOLO, "export", "model=inserted.pt", "format=onnx", "imgsz=96", cwd=tmp_path)
    assert "the file matches within the float32 tolerance" in export.stdout


def test_layer_map(plain, tmp_path):
    ela_yolo.insert(plain, after=[2, 8], save=tmp_path / "inserted.pt")
    expected = {i: i + (i > 2) + (i > 8) for i in range(23)}
    assert ela_yolo.layer_map(tmp_path / "inserted.pt") == expected
    assert ela_yolo.layer_map(plain) == {i: i for i in range(23)}
    assert ela_yolo.layer_map("yolov8n-ela.yaml")[9] == 13


def test_freezing_by_the_map_freezes_the_plain_layers_and_trains_ela(plain, tmp_path):
    ela_yolo.insert(plain, save=tmp_path / "inserted.pt")
    freeze = [layer for original, layer in ela_yolo.layer_map(tmp_path / "inserted.pt").items() if original < 10]
    keys = [*ONE_EPOCH.split(), f"freeze={freeze}", f"project={tmp_path}", "optimizer=SGD"]
    forked(BIN / "yolo", "train", "model=inserted.pt", "data=scenes.yaml", *keys, cwd=tmp_path)
    before, after = (YOLO(tmp_path / name).model for name in ("inserted.pt", "train/weights/last.pt"))
    moved = {int(k.split(".")[1]) for k, p in after.named_parameters() if not torch.equal(p, before.get_parameter(k))}
    assert {3, 6, 9, 12} <= moved and not moved & set(freeze)


def bad_checkpoints(folder):
    (folder / "text.pt").write_text("no weights")
    (folder / "empty.pt").write_bytes(b"")
    torch.save({"model": nn.Conv2d(1, 1, 1)}, folder / "other.pt")
    torch.save([1], folder / "list.pt")
    torch.save({"epoch": 3}, folder / "none.pt")
    whole = folder / "whole.pt"
    YOLO("yolov8n.yaml").save(whole)
    (folder / "cut.pt").write_bytes(whole.read_bytes()[:100_000])


@pytest.mark.parametrize("name", ["text", "empty", "cut", "list", "other", "none", "missing"])
def test_what_is_no_checkpoint_is_refused_in_one_line(name, tmp_path):
    bad_checkpoints(tmp_path)
    before = sorted(tmp_path.iterdir())
    for call in (ela_yolo.insert, ela_yolo.remove, ela_yolo.layer_map):
        with pytest.raises(CheckpointError, match=rf"{name}\.pt") as caught:
            call(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_files_are_not_replaced_unasked(plain, tmp_path):
    for model, target in ((plain, tmp_path / "x.pt"), ("yolov8n.yaml", tmp_path / "x.yaml")):
        target.write_text("mine")
        with pytest.raises(InsertionError, match=r"x\..* exists; name another file with save=, or replace it"):
            ela_yolo.insert(model, save=target)
        assert target.read_text() == "mine"
        ela_yolo.insert(model, save=target, exist_ok=True)
        assert target.read_bytes() != b"mine"
        (target.parent / f"d{target.suffix}").mkdir()
        with pytest.raises(InsertionError, match="exists"):
            ela_yolo.insert(model, save=target.parent / f"d{target.suffix}", exist_ok=True)
        with pytest.raises(InsertionError, match=r"there is no folder .*nowhere; create it first"):
            ela_yolo.insert(model, save=tmp_path / "nowhere" / target.name)
        with pytest.raises(InsertionError, match=f"the result is a {target.suffix} file"):
            ela_yolo.insert(model, save=tmp_path / "x.onnx")
    with pytest.raises(InputError, match=r"model=x\.onnx is neither a model YAML nor a checkpoint"):
        ela_yolo.insert("x.onnx")
    with pytest.raises(InputError, match=r"there is no nothing\.yaml"):
        ela_yolo.remove("nothing.yaml")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["d.pt", "d.yaml", "x.pt", "x.yaml"]
    link = tmp_path / "link.yaml"
    link.symlink_to("x.yaml")
    ela_yolo.insert("yolov8n.yaml", after=4, save=link, exist_ok=True)
    assert link.is_symlink() and ela_yolo.layer_map(tmp_path / "x.yaml")[22] == 23


def test_a_name_without_an_ending_is_a_checkpoint(plain, tmp_path):
    shutil.copy(plain, tmp_path / "yolov8n.pt")
    forked(BIN / "ela-yolo", "insert", "model=yolov8n", cwd=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"yolov8n.pt", "yolov8n-ela.pt"}


def test_without_save_nothing_is_written(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = plain.read_bytes()
    assert ela_yolo.insert(plain).transfer.kept == EVERY
    assert ela_yolo.insert("yolov8n.yaml").transfer is None
    assert plain.read_bytes() == before and not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(plain, tmp_path):
    target = tmp_path / "inserted.pt"
    target.write_bytes(b"an older file")
    code = f"""
import resource, signal, ela_yolo
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # writing beyond that fails
try:
    ela_yolo.insert({str(plain)!r}, save={str(target)!r}, exist_ok=True)
except ela_yolo.InsertionError as error:
    print(error)
"""
    done = forked_python(code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1].startswith(f"{target} cannot be written: ")
    assert [file.name for file in tmp_path.iterdir()] == ["inserted.pt"]
    assert target.read_bytes() == b"an older file"
