"""The gates of real models, their numbers, and the pictures of them."""

import base64
import json
import math
import pickle
import re
import shutil
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import HOME, SHARED
from torch import nn
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.utils import ops, plotting

from ela_yolo import ELA
from ela_yolo.cost.measure import peak_memory
from ela_yolo.data.scenes import render
from ela_yolo.errors import CheckpointError, InputError
from ela_yolo.gates.attention import _cut, _prediction, attention, gate_health
from ela_yolo.gates.capture import Gates, capture_gates, gates_of
from ela_yolo.gates.health import GateHealth, GateReport, HealthMeter, _sum_of_squares
from ela_yolo.gates.picture import log_gain, plot_attention
from ela_yolo.gates.placement import WHOLE, along_image, covered, over_image
from ela_yolo.host.heat_map import HeatMaps
from ela_yolo.host.model_blocks import named_blocks
from ela_yolo.parity.metadata import describe_blocks
from ela_yolo.plugin import register

register()
FORMS = ("paper", "residual", "identity")
LAYERS = ["3", "6", "9", "12"]


def block_of(form="paper", channels=16, variant="B"):
    """A block whose norm is not as it starts, so that no gate form is trivial."""
    torch.manual_seed(0)
    block = ELA(channels, variant, form)
    nn.init.normal_(block.gn.weight, 1, 0.3)
    nn.init.normal_(block.gn.bias, 0, 0.3)
    return block.eval()


def count_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def scenes():
    return sorted((render(HOME / "datasets/ela-yolo-scenes") / "images/val").iterdir())


@pytest.fixture(scope="module")
def best(retrained):
    return retrained / "weights/best.pt"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", ["B", "S"])
def test_the_gates_give_the_output(form, variant):
    block, x = block_of(form, variant=variant), torch.randn(2, 16, 9, 14)
    with capture_gates(block) as latest, torch.no_grad():
        output = block(x)
    gates = latest[""]
    assert gates.map_size == (9, 14) and gates.block == f"ELA-{variant} {form}"
    product = gates.along_h[:, :, :, None] * gates.along_w[:, :, None, :]
    scale = 1 + product if form == "residual" else product
    torch.testing.assert_close(x * scale, output)
    torch.testing.assert_close(gates.scale_map(), scale.mean(1))
    torch.testing.assert_close(gates.channel_maps(), scale)
    torch.testing.assert_close(gates.gain, output.abs().sum(1) / x.abs().sum(1))
    torch.testing.assert_close(gates.relative_gain().mean((1, 2)), torch.ones(2))
    assert all((gate > 0).all() and (gate < 1).all() for gate in gates.sigmoids())


def test_gates_are_of_the_latest_forward_and_need_no_gradient():
    block, first, second = block_of(), torch.randn(1, 16, 8, 8), torch.randn(1, 16, 6, 8)
    with capture_gates(block) as latest:
        block(first.requires_grad_()).sum().backward()
        block(second)
    assert latest[""].map_size == (6, 8) and not latest[""].along_h.requires_grad
    assert torch.equal(latest[""].along_w, gates_of(block, second).along_w)
    assert first.grad is not None


@pytest.fixture
def one_process(tmp_path):
    """The process group of a training on one device."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "nothing": lambda model: model,
    "DDP": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "torch.compile of DDP": lambda model: torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_layers_are_named_as_in_the_layer_table_whatever_wraps_the_model(wrap, one_process):
    model = YOLO("yolov8n-ela.yaml").model.eval()
    assert list(named_blocks(wrap(model))) == LAYERS
    with capture_gates(wrap(model)) as latest, torch.no_grad():
        model(torch.rand(1, 3, 64, 64))
    assert list(latest) == LAYERS


def test_layers_of_a_yolo_and_of_its_predictor_are_named_alike():
    original: Any = YOLO("yolov8n-ela.yaml")
    assert list(named_blocks(original)) == LAYERS
    original.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)
    with capture_gates(original.predictor.model) as latest:
        original.predictor.model(torch.rand(1, 3, 64, 64))
    assert list(latest) == LAYERS


class Nested(nn.Module):
    """A user's module with names that Ultralytics and PyTorch use as well."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(block_of())
        self.backend = nn.ModuleDict({"model": nn.Sequential(block_of())})
        self.module = block_of()
        self.student_model = block_of()

    def forward(self, x):
        return self.student_model(self.module(self.backend["model"](self.model(x))))


def test_every_block_within_a_users_module_has_a_name_of_its_own():
    nested, x = Nested().eval(), torch.randn(1, 16, 6, 5)
    names = ["model.0", "backend.model.0", "module", "student_model"]
    assert list(named_blocks(nested)) == names
    with capture_gates(nested) as latest, HealthMeter(nested) as meter:
        nested(x)
    assert list(latest) == names and [each.layer for each in meter.result()] == names
    assert [each["layer"] for each in describe_blocks(nested)] == names


def test_blocks_within_a_users_layer_have_names_of_their_own():
    model: Any = YOLO("yolov8n-ela.yaml").model
    model.model[2].model = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity(), block_of(channels=32))
    names = ["2.model.3", *LAYERS]
    assert list(named_blocks(model)) == names
    assert [each["layer"] for each in describe_blocks(model)] == names


def test_hooks_go_even_after_an_error():
    model = YOLO("yolov8n-ela.yaml").model.eval()
    before = count_hooks(model)
    for watch in (capture_gates, HealthMeter):
        with watch(model):
            assert count_hooks(model) == before + 4
        assert count_hooks(model) == before
        with pytest.raises(RuntimeError), watch(model):
            model(torch.rand(1, 2, 64, 64))  # two channels
        assert count_hooks(model) == before


@pytest.mark.parametrize("form", FORMS)
def test_the_meter_is_the_direct_computation(form):
    block = block_of(form)
    batches = [torch.randn(3, 16, 8, 12), torch.randn(1, 16, 8, 12)]
    with HealthMeter(block) as meter, torch.no_grad():
        outputs = torch.cat([block(x) for x in batches])
    x = torch.cat(batches)
    halves = [block._strip_gate(x.mean(3)).detach(), block._strip_gate(x.mean(2)).detach()]  # the plain sigmoids
    saturated = [((gate < 0.05) | (gate > 0.95)).double().mean() for gate in halves]
    (health,) = meter.result()
    assert meter.images == 4 and health.block == f"ELA-B {form}"
    assert health.mean == pytest.approx(sum(gate.mean() for gate in halves).item() / 2, rel=1e-5)
    assert health.spread == pytest.approx(sum(np.std(gate.numpy(), axis=2).mean() for gate in halves) / 2, rel=1e-5)
    assert health.saturated == pytest.approx(sum(saturated).item() / 2, rel=1e-5)
    assert health.scale == pytest.approx((outputs.square().mean() / x.square().mean()).sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_meter_copies_no_whole_map_to_float32(dtype):
    x = 100 * torch.randn(8, 16, 64, 64).to(dtype)  # the squares of which float16 cannot hold
    assert peak_memory(lambda: _sum_of_squares(x), x.device) < 1.01 * x[0].numel() * 4 / 1e6
    assert _sum_of_squares(x).item() == pytest.approx(x.double().square().sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("weight", "bias", "verdict"),
    [
        (0, 0, "looks everywhere alike: does nothing"),
        (0, 1, "looks everywhere alike: does nothing"),
        (1, 10, "saturated"),
        (1, -10, "saturated"),
        (1, 0, "alive"),
        (math.nan, 0, "not finite: the training diverged"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_verdicts(form, weight, bias, verdict):
    block = ELA(16, gate=form)
    nn.init.constant_(block.gn.weight, weight)
    nn.init.constant_(block.gn.bias, bias)
    with HealthMeter(block) as meter:
        block(torch.randn(2, 16, 10, 10))
    assert meter.result()[0].verdict == verdict


def test_the_meter_leaves_training_as_it_is():
    def train(watch):
        torch.manual_seed(0)
        block, x = block_of().train(), torch.randn(2, 16, 8, 8)
        meter = HealthMeter(block)
        if watch:
            meter.__enter__()
        block(x).square().sum().backward()
        return block.conv.weight.grad, meter.images

    (plain, none), (watched, images) = train(False), train(True)
    assert torch.equal(plain, watched) and (none, images) == (0, 2)


def test_a_report_prints_a_table():
    health = GateHealth("3", "ELA-B paper", 0.51, 0.0712, 0.003, 0.27)
    dead = replace(health, layer="6", spread=0.001)
    assert str(GateReport((health, dead), 87)).splitlines() == [
        "| layer | block | gate mean | spread | saturated | scale | focus (95%) | random gates | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
        "| 3 | ELA-B paper | 0.510 | 0.0712 | 0.3% | 0.270 | - | - | alive |",
        "| 6 | ELA-B paper | 0.510 | 0.0010 | 0.3% | 0.270 | - | - | looks everywhere alike: does nothing |",
        "",
        "over 87 images",
    ]


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (333, 500), (96, 128)])
@pytest.mark.parametrize("rectangular", [False, True])
def test_a_place_of_the_input_is_found_again_in_the_image(size, rectangular):
    """A bump at a cell of the map must land where Ultralytics puts a box around that cell."""
    boxed = LetterBox((320, 320), auto=rectangular, stride=32)(image=np.zeros((*size, 3), np.uint8))
    network = boxed.shape[:2]
    cells = network[0] // 8, network[1] // 8
    bump = np.zeros(cells, np.float32)
    row, column = cells[0] // 2 - 3, cells[1] // 2 + 4
    bump[row, column] = 1
    parts = covered(size, network)
    found = np.unravel_index(np.argmax(over_image(bump, parts, size)), size)
    x, y = (column + 0.5) * 8, (row + 0.5) * 8
    box = ops.scale_boxes(network, torch.tensor([[x, y, x, y]]), size)[0]
    pixels = 0.5 + max(size) / 320  # half a pixel of the image, and one of the input, which Ultralytics rounds by
    assert found[0] + 0.5 == pytest.approx(box[1].item(), abs=pixels)
    assert found[1] + 0.5 == pytest.approx(box[0].item(), abs=pixels)
    along = along_image(bump.max(0), parts[1], size[1])
    assert np.argmax(along) == found[1]


def test_padding_is_cut_away():
    upper_half = np.zeros(80)
    upper_half[:10] = 1  # the padding above a 480x640 image in a square
    parts = covered((480, 640), (640, 640))
    assert [(part.start, part.length) for part in parts] == [(0.125, 0.75), (0, 1)]
    assert along_image(upper_half, parts[0], 480)[4:].max() == 0  # interpolated with the padding for half a cell


def test_what_the_network_did_not_see_is_not_there():
    parts = covered((100, 200), (50, 50), "crop")
    seen = ~np.isnan(over_image(np.ones((4, 4)), parts, (100, 200)))
    assert seen[:, 50:150].all() and not seen[:, :50].any() and not seen[:, 150:].any()
    assert covered((100, 200), (50, 50), "stretch") == WHOLE


@pytest.mark.parametrize("form", FORMS)
def test_colours_are_the_same_in_every_picture_unless_stretched(form):
    image = np.full((60, 80, 3), 127, np.uint8)
    gates = {str(i): gates_of(block_of(form), torch.randn(1, 16, 6, 8)) for i in range(2)}
    figure, panels = plot_attention(image, gates)
    assert [panel.get_title("left") for panel in panels] == ["image", "layer 0", "layer 1"]
    assert [len(panel.child_axes) for panel in panels] == [0, 5, 5]  # two gates and three channels
    bar = figure.axes[-1]
    assert bar.get_ylim() == (-1, 1) and [text.get_text() for text in bar.get_yticklabels()][1] == "as the mean"
    stretched, _ = plot_attention(image, gates, stretch=True)
    low, high = stretched.axes[-1].get_ylim()
    largest = max(log_gain(each).__abs__().max() for each in gates.values())
    assert high == pytest.approx(largest, rel=0.2) and low == -high
    assert figure.canvas.manager is None  # no window and no global state


def test_what_is_amplified_is_red_and_what_is_damped_is_blue_and_what_is_neither_is_the_image():
    gain = torch.ones(1, 8, 8)
    gain[0, :4, :4], gain[0, 4:, 4:] = 4, 0.25
    gates = Gates(torch.ones(1, 4, 8), torch.ones(1, 4, 8), "identity", "B", gain)
    _, panels = plot_attention(np.full((80, 80, 3), 127, np.uint8), {"3": gates})
    colours = panels[1].images[1].get_array()  # red, green, blue, opacity
    red, blue = colours[10, 10], colours[70, 70]
    assert red[0] > 2 * red[2] and red[3] > 0.7 and blue[2] > 2 * blue[0] and blue[3] > 0.7
    mean = gain.mean().item()
    neutral = Gates(gates.along_h, gates.along_w, "identity", "B", torch.full((1, 8, 8), mean))
    _, panels = plot_attention(np.full((80, 80, 3), 127, np.uint8), {"3": neutral})
    assert panels[1].images[1].get_array()[..., 3].max() == 0


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_up_to_eight_layers_have_a_panel_each(count):
    gates = {
        str(i): Gates(torch.rand(1, 4, 3), torch.rand(1, 4, 5), "paper", "B", torch.rand(1, 3, 5)) for i in range(count)
    }
    figure, panels = plot_attention(np.zeros((30, 50, 3), np.uint8), gates)
    assert len(panels) == 1 + count == len(figure.axes) - 1  # and one colour bar


def test_a_flat_gate_can_be_stretched():
    flat = Gates(torch.ones(1, 4, 5), torch.ones(1, 4, 5), "identity", "B", torch.ones(1, 5, 5))
    figure, _ = plot_attention(np.zeros((30, 50, 3), np.uint8), {"3": flat}, stretch=True)
    figure.canvas.draw()


def test_pictures_of_a_folder(best, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        shutil.copy(scenes()[0], tmp_path / f"images/{folder}/same.png")
    shutil.copy(scenes()[1], tmp_path / "images/a/other.png")
    files = attention(best, "images/**/*.png", imgsz=96)
    assert sorted(file.name for file in files) == ["other.png", "same-2.png", "same.png"]
    assert {file.parent.name for file in files} == {"best-attention"}
    pictures = [cv2.imread(str(file)) for file in files]
    assert all(picture.std() > 10 and picture.shape[1] > 800 for picture in pictures)
    page = tmp_path / "best-attention/index.html"
    assert {*tmp_path.rglob("*best-attention/*")} == {page, *(file.absolute() for file in files)}


needs_heat_maps = pytest.mark.skipif(
    not hasattr(plotting, "class_activation_map"), reason="this Ultralytics draws no class heat maps"
)


@needs_heat_maps
def test_heat_maps_of_this_model_and_of_another(best, plain, tmp_path):
    report = gate_health(best, "scenes.yaml", imgsz=64)
    keys = {"imgsz": 96, "classes": "ball,star", "beside": plain, "report": report}
    (file,) = attention(best, scenes()[0], tmp_path / "pictures", **keys)
    (narrow,) = attention(best, scenes()[0], tmp_path / "narrow", imgsz=96)
    assert cv2.imread(str(file)).shape[1] > cv2.imread(str(narrow)).shape[1] + 400  # two panels
    page = (tmp_path / "pictures/index.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page)[1])
    assert list(data["images"][0]["files"]) == ["image", "heat map", "heat map of plain"]
    shown = [decoded(text) for text in data["images"][0]["files"].values()]
    assert len({picture.shape for picture in shown}) == 1 and np.abs(shown[1].astype(int) - shown[2]).mean() > 1
    assert data["table"] == report.table()


def decoded(data_url):
    coded = base64.b64decode(data_url.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)


@needs_heat_maps
@pytest.mark.parametrize("size", [(64, 128), (128, 64), (96, 96)])
def test_a_heat_map_lies_where_the_image_lies(best, size):
    """What is bright in the image is at the same place in the part of the network's input that is cut out."""
    image = np.full((*size, 3), 30, np.uint8)
    image[size[0] // 2 :, size[1] // 2 :] = 220
    with _prediction(best, scenes()[0], 96) as run:
        drawn = HeatMaps(best).draw(image, 96)
        cut = _cut(drawn, image, run)
    grey = cut.astype(int).sum(2)
    height, width = size
    assert cut.shape == image.shape
    assert grey[height // 2 + 4 :, width // 2 + 4 :].mean() > grey[: height // 2 - 4].mean() + 100


def test_frames_of_a_video_are_numbered(best, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
    for shade in (50, 150):
        writer.write(np.full((64, 96, 3), shade, np.uint8))
    writer.release()
    files = attention(best, tmp_path / "clip.avi", tmp_path / "deep/pictures", imgsz=64)
    assert [file.name for file in files] == ["clip-00001.png", "clip-00002.png"]
    assert all(file.is_file() for file in files)


def test_nothing_grows_with_the_frames_of_a_video(best, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
    for shade in range(0, 250, 50):
        writer.write(np.full((64, 96, 3), shade, np.uint8))
    writer.release()
    held = []
    with (
        _prediction(best, tmp_path / "clip.avi", 64) as run,
        capture_gates(run.predictor.model) as gates,
    ):
        held += [len(pickle.dumps((gates, vars(run.latest)))) for _ in run.results]
    assert run.latest.size == (64, 64)
    assert len(held) == 5 and len(set(held)) == 1


@pytest.mark.parametrize("task", ["cls", "seg", "pose"])
def test_other_tasks_have_pictures_too(task, tmp_path):
    model = f"yolov8n-ela-{task}.yaml"
    files = attention(model, scenes()[0], tmp_path / "pictures", imgsz=64, stretch=True)
    assert [file.name for file in files] == [f"{scenes()[0].stem}.png"]


def test_health_over_a_data_set(best):
    report = gate_health(best, "scenes.yaml", imgsz=64)
    assert report.images == len(scenes())
    assert [(each.layer, each.block) for each in report.blocks] == [(layer, "ELA-B paper") for layer in LAYERS]
    assert all(each.focus.images == 64 and each.verdict == each.focus.verdict for each in report.blocks)


def test_health_of_fresh_blocks_is_that_of_blocks_that_do_nothing(tmp_path):
    import ela_yolo

    ela_yolo.insert("yolov8n.yaml", gate="identity", save=tmp_path / "yolov8n-fresh.yaml")
    report = gate_health(tmp_path / "yolov8n-fresh.yaml", "scenes.yaml", imgsz=64)
    assert {each.verdict for each in report.blocks} == {"looks everywhere alike: does nothing"}
    assert {each.scale for each in report.blocks} == {1}
    assert {(each.focus.value, each.focus.control_high) for each in report.blocks} == {(1, 1)}


def test_blood_cells(best, tmp_path):
    photographs = SHARED / "data/bccd/images/val"
    if not photographs.is_dir():
        pytest.skip("the photographs of BCCD are not there")
    photograph = sorted(photographs.iterdir())[0]
    (file,) = attention(best, photograph, tmp_path)
    assert file == tmp_path / f"{photograph.stem}.png" and cv2.imread(str(file)).std() > 10


def test_what_cannot_be_drawn_is_refused(best, tmp_path):
    with pytest.raises(InputError, match=r"has no ELA; put it in first: ela-yolo insert model=yolov8n\.yaml"):
        attention("yolov8n.yaml", scenes()[0], tmp_path / "pictures")
    with pytest.raises(CheckpointError, match=r"there is no missing\.pt"):
        gate_health("missing.pt", "scenes.yaml")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        attention(best, tmp_path / "missing.jpg", tmp_path / "pictures")
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(InputError, match="has no image that can be read"):
        attention(best, tmp_path / "broken.jpg", tmp_path / "pictures")
    with pytest.raises(InputError, match=r"broken\.jpg is a file; name a folder"):
        attention(best, scenes()[0], tmp_path / "broken.jpg")
    with pytest.raises(InputError, match="test:"):
        gate_health(best, "scenes.yaml", split="test")
    assert not (tmp_path / "pictures").exists()
