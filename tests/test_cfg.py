"""The shipped model YAMLs against Ultralytics' own: the same model, but for ELA between a stage and its readers."""

import pytest
import torch
import ultralytics
import yaml
from conftest import REPO
from helpers import narrow, of_family
from ultralytics import YOLO
from ultralytics.utils.checks import check_version

from ela_yolo import ELA, insert
from ela_yolo.edit.yaml_file import read_model_yaml
from ela_yolo.host.lookup import find_model

# ours -> Ultralytics', and Ultralytics' layers that are followed by ELA
MODELS = {
    "yolov8-ela": ("yolov8", (2, 4, 6, 8)),
    "yolov8-ela-neck": ("yolov8", (12, 15, 18, 21)),
    "yolov8-ela-seg": ("yolov8-seg", (2, 4, 6, 8)),
    "yolov8-ela-pose": ("yolov8-pose", (2, 4, 6, 8)),
    "yolov8-ela-obb": ("yolov8-obb", (2, 4, 6, 8)),
    "yolov8-ela-cls": ("yolov8-cls", (2, 4, 6, 8)),
    "yolo11-ela": ("yolo11", (2, 4, 6, 8)),
    "yolo12-ela": ("yolo12", (2, 4, 6, 8)),
    "yolo26-ela": ("yolo26", (2, 4, 6, 8)),
}


def sources(layer):
    """The absolute numbers of the layers that a layer reads."""
    return [f if f >= 0 else layer.i + f for f in ([layer.f] if isinstance(layer.f, int) else layer.f)]


def test_the_table_is_complete():
    assert sorted(MODELS) == sorted(file.stem for file in (REPO / "cfg").glob("*.yaml"))


def scaled(name, scale):
    """The YAML of a model at a scale: yolov8-ela, n -> yolov8n-ela.yaml."""
    family, _, rest = name.partition("-")
    return f"{family}{scale}{'-' * bool(rest)}{rest}.yaml"


NAMES = [of_family(name) for name in MODELS]
ALIKE = {"s", "m", "x"}  # at one width these are as deep as n or l, or between them


@pytest.mark.parametrize(
    "scale", [pytest.param(scale, marks=[pytest.mark.nightly] * (scale in ALIKE)) for scale in "nsmlx"]
)
@pytest.mark.parametrize("name", NAMES)
def test_each_elas_consumers_are_the_stages_former_consumers(name, scale, tmp_path):
    original_name, stages = MODELS[name]
    files = [tmp_path / scaled(each, scale) for each in (name, original_name)]
    for file in files:
        file.write_text(narrow(read_model_yaml(find_model(file.name))), encoding="utf-8")
    ours, original = (YOLO(file).model.model for file in files)

    home = {}  # Ultralytics' layer -> where it lives in ours
    for layer in ours:
        if not isinstance(layer, ELA):
            home[len(home)] = layer.i
    assert [type(ours[home[layer.i]]) for layer in original] == [type(layer) for layer in original]
    assert [home[stage] + 1 for stage in stages] == [layer.i for layer in ours if isinstance(layer, ELA)]
    for stage in stages:
        block = ours[home[stage] + 1]
        assert sources(block) == [home[stage]]
    read_now = {i: home[i] + (i in stages) for i in home}
    for layer in original[1:]:
        assert sources(ours[home[layer.i]]) == [read_now[source] for source in sources(layer)], layer.i


def tensors(output):
    """All tensors of an output, however it is nested."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name):
    """Its outputs have the shapes of the plain model's, and depend on the image and on each of its blocks."""
    models = [YOLO(scaled(each, "n")) for each in (name, MODELS[name][0])]
    assert models[0].task == models[1].task
    ours, plain = (model.model.eval() for model in models)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1  # fresh statistics damp every map to almost nothing
    with torch.inference_mode():
        ours.train()(torch.cat([image, image.flip(2)]))
        ours.eval()
        outputs = tensors(ours(image))
        assert [each.shape for each in outputs] == [each.shape for each in tensors(plain(image))]
        assert all(torch.isfinite(each.float()).all() for each in outputs)
        assert not torch.equal(tensors(ours(image.flip(3)))[0], outputs[0])
        for block in (module for module in ours.modules() if isinstance(module, ELA)):
            weight = block.gn.weight.clone()
            block.gn.weight += 1
            assert not torch.equal(tensors(ours(image))[0], outputs[0])
            block.gn.weight.copy_(weight)
        assert torch.equal(tensors(ours(image))[0], outputs[0])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_insert_writes_from_ultralytics_own(name):
    """But for the comments, which are ours."""
    original, stages = MODELS[name]
    ours = yaml.safe_load((REPO / "cfg" / f"{name}.yaml").read_text(encoding="utf-8"))
    for choice in ({"after": stages}, {"where": "neck" if name.endswith("neck") else "backbone"}):
        written = yaml.safe_load(insert(f"{original}.yaml", **choice).text)
        assert all(ours[part] == written[part] for part in ("backbone", "head"))
        if check_version(ultralytics.__version__, ">=8.4.108"):  # older releases have other keys beside the rows
            assert ours == written


@pytest.mark.parametrize("name", MODELS)
def test_its_comments_count_its_layers(name):
    lines = (REPO / "cfg" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("  - [")]
    assert [line.rpartition("# ")[2] for line in rows] == [str(layer) for layer in range(len(rows))]
