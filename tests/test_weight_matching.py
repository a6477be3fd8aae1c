"""Weights that pass through Ultralytics' own loading: every tensor is kept, and none where it did not come from."""

import inspect
from collections import OrderedDict
from contextlib import nullcontext, suppress

import pytest
import torch
import ultralytics
from conftest import BIN, forked
from helpers import narrow, of_family
from torch import nn
from transfer import MODELS, landed, mark, names, transfer
from ultralytics import YOLO
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import BaseModel, DetectionModel
from ultralytics.utils.checks import check_version

import ela_yolo
from ela_yolo import ELA
from ela_yolo.edit.yaml_file import read_model_yaml
from ela_yolo.host.blocks import ENVIRONMENT, is_block
from ela_yolo.host.lookup import find_model
from ela_yolo.host.weight_matching import LeftOut, WeightTransfer, match_layers

TABLE = [name for model in MODELS for name in names(model)[: 1 if "-" in model else None]]  # tasks at one scale
# As narrow as scale n, these are as deep as n or l, or between them.
ALIKE = {f"{family}{scale}.yaml" for family in ("yolov5", "yolov8", "yolo11", "yolo12", "yolo26") for scale in "smx"}
load_of_ultralytics = inspect.unwrap(BaseModel.load)


@pytest.fixture
def lines(caplog):
    """What Ultralytics logged; its logger keeps to itself otherwise."""
    from ultralytics.utils import LOGGER

    LOGGER.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    LOGGER.removeHandler(caplog.handler)


def build(name, **changes):
    """A detector from a YAML of Ultralytics or of ours, by name."""
    return DetectionModel(name, verbose=False, **changes)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", [of_family(name, *[pytest.mark.nightly] * (name in ALIKE)) for name in TABLE])
def test_every_tensor_is_kept_in_its_own_place(name, tmp_path):
    """At every depth; how wide a layer is has no part in it, so all are as narrow as at scale n."""
    file = tmp_path / "narrow" / name
    file.parent.mkdir()
    file.write_text(narrow(read_model_yaml(find_model(name))), encoding="utf-8")
    kept, misplaced, total, report = transfer(file, tmp_path)
    assert (kept, misplaced) == (total, 0)
    assert (report.kept, report.total, report.left_out) == (total, total, ())


def test_without_us_ultralytics_loses_most_and_misplaces_some():
    """What the table would show otherwise, so that it can fail."""
    original, model = build("yolov8n.yaml"), build("yolov8n-ela.yaml")
    values = mark(original)
    load_of_ultralytics(model, original, verbose=False)
    home = ela_yolo.layer_map("yolov8n-ela.yaml")
    found = landed(model, values)
    wrong = [t for t, s in found.items() if int(t.split(".")[1]) != home[int(s.split(".")[1])]]
    assert (len(values), len(found), len(wrong)) == (355, 41, 5)


@pytest.mark.parametrize("name", [*map(of_family, ("yolov8n", "yolo11n", "yolo26n", "yolov10n"))])
@pytest.mark.parametrize("change", [{"nc": 3}, {"ch": 1}, {"nc": 3, "ch": 4}], ids=str)
def test_the_rest_is_as_ultralytics_loads_it(name, change, tmp_path):
    """Another class count rebuilds the head, and another first convolution is filled, as without ELA."""
    source, plain = build(f"{name}.yaml"), build(f"{name}.yaml", **change)
    mark(source)
    file = tmp_path / f"{name}.yaml"
    insertion = ela_yolo.insert(f"{name}.yaml", save=file)
    model = build(file, **change)
    fresh = state(plain)
    model.load_state_dict({moved(key, insertion.layer_map): tensor for key, tensor in fresh.items()}, strict=False)
    plain.load(source, verbose=False)
    report = model.load(source, verbose=False)
    found = state(model)
    changed = 0
    for key, tensor in state(plain).items():
        ours = found[moved(key, insertion.layer_map)]
        assert ours.shape == tensor.shape
        if key in fresh and fresh[key].shape == tensor.shape and not torch.equal(fresh[key], tensor):
            changed += 1
            assert torch.equal(ours, tensor), key
    origin = source.state_dict()
    same = sum(torch.equal(t, origin[k]) for k, t in plain.state_dict().items() if t.shape == origin[k].shape)
    assert report.kept == same < report.total
    assert changed > same / 2
    assert all(entry.reason.startswith("another") for entry in report.left_out)


def moved(key, layers):
    model, layer, rest = key.split(".", 2)
    return f"{model}.{layers[int(layer)]}.{rest}"


def test_class_rows_are_matched_by_name_as_ultralytics_does():
    source, plain, model = build("yolov8n.yaml", nc=2), build("yolov8n.yaml", nc=2), build("yolov8n-ela.yaml", nc=2)
    source.names, plain.names, model.names = {0: "cat", 1: "dog"}, {0: "dog", 1: "cat"}, {0: "dog", 1: "cat"}
    for tensor in source.state_dict().values():
        if tensor.is_floating_point():
            nn.init.normal_(tensor)
    plain.load(source, verbose=False)
    report = model.load(source, verbose=False)
    rows = model.model[26].cv3[0][-1].weight
    assert torch.equal(rows, plain.model[22].cv3[0][-1].weight)
    assert torch.equal(rows, source.model[22].cv3[0][-1].weight.flip(0))
    assert report.left_out == (LeftOut(26, "Detect", 6, "rearranged by Ultralytics, such as classes by their names"),)


@pytest.mark.parametrize("change", [{}, {"ch": 1}, {"ch": 4}, {"nc": 3}], ids=str)
@pytest.mark.parametrize("kind", ["yolov8n.yaml", "yolov8n-ela.yaml", "yolov8s.yaml"])
def test_class_names_come_where_ultralytics_takes_them(kind, change):
    if not check_version(ultralytics.__version__, ">=8.4.175"):
        pytest.skip(f"ultralytics {ultralytics.__version__} takes no class names")
    source, plain, model = build(kind), build("yolov8n.yaml", **change), build("yolov8n-ela.yaml", **change)
    source.names = {i: f"class {i}" for i in range(80)}
    if kind == "yolov8n-ela.yaml":  # Ultralytics alone would misplace its tensors
        load_of_ultralytics(plain, build("yolov8n.yaml"), verbose=False)
        plain.names = source.names if "nc" not in change else plain.names
    else:
        load_of_ultralytics(plain, source, verbose=False)
    model.load(source, verbose=False)
    assert model.names == plain.names
    named = build("yolov8n-ela.yaml", **change)
    named.names = own = {i: f"own {i}" for i in named.names}
    named.load(source, verbose=False)
    assert named.names == own


def test_a_filled_first_convolution_and_nan_are_told_as_they_are():
    source = build("yolov8n.yaml")
    source.model[0].bn.running_mean[0] = float("nan")
    report = build("yolov8n-ela.yaml", ch=1).load(source, verbose=False)
    reason = "another number of channels in the weights, filled from them by Ultralytics"
    assert report.left_out == (LeftOut(0, "Conv", 1, reason),) and report.complete and report.kept == 354


def test_the_source_is_left_whole_in_float32():
    source = build("yolov5n.yaml").half()
    build("yolov8n-ela.yaml").load(source, verbose=False)
    assert {tensor.dtype for tensor in source.parameters()} == {torch.float32}


def test_ela_blocks_go_where_they_stood(tmp_path, lines):
    """From backbone to neck, to the plain model, to the same places, to the same places with other settings."""
    source = build("yolov8n-ela.yaml")
    values = mark(source)

    same = build("yolov8n-ela.yaml")
    assert same.load(source) == WeightTransfer(355, 355, kept_blocks=(3, 6, 9, 12))
    assert landed(same, values) == {name: name for name in values.values()}

    neck = build("yolov8n-ela-neck.yaml")
    report = neck.load({"ema": None, "model": source})
    assert report == WeightTransfer(355, 355, new_blocks=(13, 17, 21, 25), dropped_blocks=(3, 6, 9, 12))
    assert lines()[-1] == (
        "ELA: 355/355 pretrained tensors kept; 4 new ELA (13, 17, 21, 25); "
        "4 ELA of the weights not loaded (3, 6, 9, 12)"
    )
    assert len(landed(neck, values)) == 355

    plain = build("yolov8n.yaml")
    assert plain.load(source) == WeightTransfer(355, 355, dropped_blocks=(3, 6, 9, 12))
    assert lines()[-2].startswith("Transferred 355/355 items")
    assert len(landed(plain, values)) == 355

    ela_yolo.insert("yolov8n.yaml", after=[2, 4, 12], variant="S", save=tmp_path / "yolov8n-other.yaml")
    text = (tmp_path / "yolov8n-other.yaml").read_text()
    assert text.count("[{variant: S, gate: identity, lr_mult: 100}]") == 3
    (tmp_path / "yolov8n-other.yaml").write_text(text.replace("variant: S, ", "", 1))
    other = build(tmp_path / "yolov8n-other.yaml")
    before = state(other.model[6])
    assert other.load(source) == WeightTransfer(
        355, 355, new_blocks=(6, 15), kept_blocks=(3,), dropped_blocks=(6, 9, 12)
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.model[6].state_dict().items())
    assert len(landed(other, values)) == 355 + 3


OTHERS = {  # source, model -> the layer that disagrees
    ("yolov5n", "yolov8n-ela"): "layer 2 (blocks not counted) is C2f here and C3 in the weights",
    ("yolov8n", "yolo11n-ela"): "layer 2 (blocks not counted) is C3k2 here and C2f in the weights",
    ("yolov8n-p2", "yolov8n-ela"): "layer 16 (blocks not counted) is Conv here and Upsample in the weights",
    ("yolov10n", "yolo11n-ela"): "layer 2 (blocks not counted) is C3k2 here and C2f in the weights",
    ("yolov8n-ela", "yolo11n"): "layer 2 (blocks not counted) is C3k2 here and C2f in the weights",
}


@pytest.mark.parametrize(("source", "model"), OTHERS)
def test_another_architecture_is_not_guessed_at(source, model, lines):
    weights, target = build(f"{source}.yaml"), build(f"{model}.yaml")
    values = mark(weights)
    report = target.load(weights)
    warnings = [line for line in lines() if "ELA: layer" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(f"ELA: {OTHERS[source, model]}, so only layers that agree are loaded")
    places = {"ours": ela_yolo.layer_map(f"{model}.yaml"), "theirs": ela_yolo.layer_map(f"{source}.yaml")}
    original = {number: k for k, number in places["ours"].items()}
    origin = {number: k for k, number in places["theirs"].items()}
    found = landed(target, values)
    assert len(found) == report.kept > 0
    for ours, theirs in found.items():
        (i, rest), (j, their_rest) = ((int(key.split(".")[1]), key.split(".", 2)[2]) for key in (ours, theirs))
        assert original[i] == origin[j] and rest == their_rest
        head = target.model[i] is target.model[-1]
        assert type(target.model[i]) is type(weights.model[j]) or (head and isinstance(weights.model[j], Detect))
    if len(original) != len(origin):  # then nothing is known of the layers behind the first that disagrees
        first = int(warnings[0].partition("ELA: layer ")[2].split()[0])
        assert max(original[int(key.split(".")[1])] for key in found) < first
    assert sum(entry.tensors for entry in report.left_out) == report.total - report.kept
    assert str(report).count(" of layer ") == 3 and "layers more" in str(report)


def test_one_layer_of_another_kind_is_left_out_alone(tmp_path, lines):
    ela_yolo.insert("yolov8n.yaml", save=tmp_path / "yolov8n-mine.yaml")
    file = tmp_path / "yolov8n-mine.yaml"
    file.write_text(file.read_text().replace("SPPF, [1024, 5]", "SPP, [1024]"))
    source, model = build("yolov8n.yaml"), build(file)
    values = mark(source)
    report = model.load(source)
    assert "ELA: layer 9 (blocks not counted) is SPP here and SPPF in the weights, so only" in lines()[-1]
    assert report.left_out == (LeftOut(13, "SPP", 12, "no such layer in the weights"),)
    assert len(landed(model, values)) == report.kept == 355 - 12


@pytest.mark.parametrize(("name", "kept", "total"), [("yolov8n-ela-seg", 355, 417), ("yolov8n-ela-cls", 150, 158)])
def test_a_detectors_weights_start_another_task_as_with_ultralytics(name, kept, total):
    source = YOLO("yolov8n.yaml").model
    plain, model = (YOLO(f"{stem}.yaml").model for stem in (name.replace("-ela", ""), name))
    values = mark(source)
    plain.load(source, verbose=False)
    report = model.load(source, verbose=False)
    assert len(landed(plain, values)) == len(landed(model, values)) == report.kept == kept
    assert report.total == total


def test_repeated_blocks_are_ela_too(tmp_path):
    stack = nn.Sequential(ELA(8), ELA(8))
    assert is_block(ELA(8)) and is_block(stack) and not is_block(nn.Sequential()) and not is_block(nn.Conv2d(1, 1, 1))
    (tmp_path / "yolov8l.yaml").write_text(narrow(read_model_yaml(find_model("yolov8l.yaml"))))
    ela_yolo.insert(tmp_path / "yolov8l.yaml", gate="paper", save=tmp_path / "yolov8l-mine.yaml")
    text = (tmp_path / "yolov8l-mine.yaml").read_text()
    (tmp_path / "yolov8l-mine.yaml").write_text(text.replace("[-1, 1, ELA, []]", "[-1, 3, ELA, []]"))
    model, source = build(tmp_path / "yolov8l-mine.yaml"), build(tmp_path / "yolov8l.yaml")
    assert isinstance(model.model[3], nn.Sequential)
    assert model.load(source, verbose=False) == WeightTransfer(595, 595, new_blocks=(3, 6, 9, 12))
    assert build(tmp_path / "yolov8l-mine.yaml").load(model, verbose=False).kept_blocks == (3, 6, 9, 12)


def test_an_ela_that_reads_another_layer_is_another():
    def layers(source):
        result = [nn.Identity(), nn.Identity(), ELA(8), nn.Identity()]
        for layer, f in zip(result, (-1, -1, source, -1), strict=True):
            layer.f = f
        return result

    assert match_layers(layers(-1), layers(-1)).matches == (0, 1, 2, 3)
    assert match_layers(layers(-1), layers(1)).matches == (0, 1, 2, 3)  # the same, by number
    assert match_layers(layers(-1), layers(0)).matches == (0, 1, None, 3)
    other = layers(0)
    other[1] = nn.Flatten()  # in front of the block, which does not read it
    assert match_layers(layers(0), other).matches == (0, None, 2, 3)
    other[0] = nn.Flatten()
    assert match_layers(layers(0), other).matches == (None, None, None, 3)


class Wide(nn.Module):
    """A user's block whose repr does not show its settings."""

    def __init__(self, channels, rows=1):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(rows, 1, 1))

    def forward(self, x):
        return x * self.scale.mean()


def test_a_block_of_other_shapes_is_new(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, f"Wide={__name__}:Wide")
    models = [
        DetectionModel(
            {
                "nc": 1,
                "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Wide", [rows]]],
                "head": [[[1], 1, "Detect", ["nc"]]],
            },
            verbose=False,
        )
        for rows in (2, 3, 2)
    ]
    assert models[1].load(models[0], verbose=False).new_blocks == (1,)
    assert models[2].load(models[0], verbose=False).kept_blocks == (1,)
    assert torch.equal(models[2].model[1].scale, models[0].model[1].scale)


def test_a_model_without_ela_is_left_to_ultralytics(lines):
    source, model = build("yolov8n.yaml"), build("yolov8n.yaml")
    assert model.load(source) is None
    assert not any(line.startswith("ELA") for line in lines())
    other = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 16, 3)))  # not of Ultralytics
    older = not check_version(ultralytics.__version__, ">=8.4.175")
    with suppress(KeyError) if older else nullcontext():  # they want a first convolution by its name
        assert build("yolov8n-ela.yaml").load(other, verbose=False) is None


RECIPE = "data=scenes.yaml epochs=1 fraction=0.05 imgsz=64 batch=8 workers=0 plots=False val=False"


def test_train_pretrained_carries_and_says_so(trained, tmp_path):
    """By the stock command, from weights with ELA elsewhere."""
    done = forked(
        BIN / "yolo",
        "train",
        "model=yolov8n-ela-neck.yaml",
        f"pretrained={trained}/weights/best.pt",
        *RECIPE.split(),
        f"project={tmp_path}",
        cwd=tmp_path,
    )
    lines = (done.stdout + done.stderr).splitlines()
    every = len(build("yolov8n.yaml").state_dict())
    place = next(i for i, line in enumerate(lines) if line.startswith("Transferred "))
    # The command of older releases loads the weights once more before, into a model of 80 classes.
    kept = every if check_version(ultralytics.__version__, ">=8.4.108") else int(lines[place].split()[1].split("/")[0])
    assert lines[place].startswith(f"Transferred {kept}/{every + 12} items")
    assert lines[place + 1].startswith(
        f"ELA: {kept}/{every} pretrained tensors kept; 4 new ELA (13, 17, 21, 25); "
        "4 ELA of the weights not loaded (3, 6, 9, 12)"
    )
