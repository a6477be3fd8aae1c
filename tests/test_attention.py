"""What detections get through the gates, where an image lies in the network's input, and the pictures of that."""

import shutil
from typing import Any

import cv2
import hand_built
import numpy as np
import pytest
import torch
from conftest import HOME, SHARED
from helpers import count_hooks, of_family, since
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.utils import ops

from ela_yolo import insert
from ela_yolo.data.scenes import render
from ela_yolo.errors import CheckpointError, InputError
from ela_yolo.gates.attention import attention, traced_images
from ela_yolo.gates.attribution import Trace, trace
from ela_yolo.gates.attribution_picture import FULL, LOWERS, RAISES, Detection, density, plot_attention
from ela_yolo.gates.geometry import WHOLE, along_image, covered, over_image
from ela_yolo.host.detector import Detector
from ela_yolo.host.lookup import open_model
from ela_yolo.host.model_blocks import ela_blocks
from ela_yolo.plugin import register

register()


def scenes():
    return sorted((render(HOME / "datasets/ela-yolo-scenes") / "images/val").iterdir())


@pytest.fixture(scope="module")
def best(retrained):
    return retrained / "weights/best.pt"


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


# Attribution


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The detector whose class depends on a mark in the row by construction."""
    return hand_built.build(tmp_path_factory.mktemp("built"))


def traced(weights, number):
    """The objects of an image as (class, row, column), its marked rows, and the traces of each object."""
    image, objects, marked = hand_built.draw(number)
    network: Any = YOLO(weights).model.eval()
    x = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        scores = network(x)[0][0, 4:].view(2, 8, 8)
    found = [
        (label, float(scores[label, row, column]), (column + 0.5) / 8, (row + 0.5) / 8)
        for label, row, column in objects
    ]
    return objects, marked, trace(Detector(network), ela_blocks(network), x, found)


def test_a_map_lies_on_the_mark_and_its_sum_is_the_change_of_the_logit(built):
    seen = 0
    for number in range(4):
        objects, _, traces = traced(built, number)
        for (label, row, _), of_object in zip(objects, traces, strict=True):
            first, second = of_object["1"], of_object["2"]
            assert first.places.sum() == pytest.approx(first.change, rel=0.02)
            assert second.change == 0 and np.abs(second.places).max() == 0  # its gates vary, and nothing reads them
            if label:
                strongest = np.unravel_index(first.places.argmax(), first.places.shape)
                assert strongest[0] == row and strongest[1] < 2  # a mark is two cells at the left end
                assert first.places[strongest] > 1
                seen += 1
    assert seen >= 8


def test_with_constant_gates_every_map_is_empty(built, tmp_path):
    """Constant gates have a norm whose weight is 0."""
    constant = YOLO(built)
    with torch.no_grad():
        for block in ela_blocks(constant).values():
            block.gn.weight.zero_()
            block.gn.bias.fill_(0.3)
    constant.save(tmp_path / "constant.pt")
    for of_object in traced(tmp_path / "constant.pt", 0)[2]:
        assert [each.change for each in of_object.values()] == [0, 0]
        assert all(np.abs(each.places).max() == 0 for each in of_object.values())


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("rtdetr-l", marks=pytest.mark.nightly),
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("yolo11n", "yolov8n-seg", "yolov8n-obb")),
        *("yolov8n", "yolov8n residual", of_family("yolo26n identity")),
    ],
)
def test_maps_are_complete_for_every_head(model, tmp_path):
    """Of detections of models with random weights, whose logits the gates change."""
    model, form = [*model.split(), "paper"][:2]
    insert(f"{model}.yaml", gate=form, save=tmp_path / f"{model}-here.yaml", after="P3,P4")
    torch.manual_seed(0)
    network: Any = open_model(tmp_path / f"{model}-here.yaml").model.eval()
    for block in ela_blocks(network).values():
        nn.init.normal_(block.gn.weight, 1, 0.3)
        nn.init.normal_(block.gn.bias, 0, 0.3)
    # RT-DETR selects 300 places, which a smaller input does not have.
    detector, x = Detector(network), torch.rand(1, 3, *((192, 160) if model == "rtdetr-l" else (96, 128)))
    with torch.no_grad():
        outputs = detector.run(x)
        logits, centers = detector.logits(outputs), detector.places(outputs)
        expected = network(x)[0]
        expected = expected[0] if isinstance(expected, tuple) else expected
    label, place = divmod(int(logits.argmax()), logits.shape[1])
    score = float(logits[label, place].sigmoid())
    assert (expected - score).abs().min() < 1e-5  # the head gives the same score
    x_and_y = (0.5, 0.5) if centers is None else centers[place].tolist()
    (of_detection,) = trace(detector, ela_blocks(network), x, [(label, score, *x_and_y)])
    assert len(of_detection) == 2
    for each in of_detection.values():
        assert each.places.sum() == pytest.approx(each.change, rel=0.02, abs=1e-4)
    assert max(np.abs(each.places).max() for each in of_detection.values()) > 0


@since("8.3.100")  # some releases before give logits where they should give probabilities
def test_a_classifier_is_traced_too():
    torch.manual_seed(0)
    network: Any = YOLO("yolov8n-ela-cls.yaml").model.eval()
    for block in ela_blocks(network).values():
        nn.init.normal_(block.gn.weight, 1, 0.3)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        probabilities, logits = network(x)
    label = int(probabilities.argmax())
    detector = Detector(network)
    torch.testing.assert_close(detector.logits(detector.run(x))[:, 0], logits[0])
    (of_class,) = trace(detector, ela_blocks(network), x, [(label, float(probabilities[0, label]), 0.5, 0.5)])
    for each in of_class.values():
        assert each.places.sum() == pytest.approx(each.change, rel=0.02, abs=1e-5)


def test_a_block_that_reads_the_image_is_traced(tmp_path):
    rows = "nc: 2\nbackbone:\n  - [-1, 1, ELA, []]\n  - [-1, 1, Conv, [16, 3, 2]]\nhead:\n  - [[1], 1, Detect, [nc]]\n"
    (tmp_path / "first.yaml").write_text(rows)
    network: Any = YOLO(tmp_path / "first.yaml").model.eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        detector = Detector(network)
        score = float(detector.logits(detector.run(x))[0, 5].sigmoid())
    (found,) = trace(detector, ela_blocks(network), x, [(0, score, 0.5, 0.5)])
    assert found["0"].places.shape == (32, 32)
    assert found["0"].places.sum() == pytest.approx(found["0"].change, rel=0.02, abs=1e-5)


def test_what_the_network_does_not_detect_has_no_trace(built):
    network: Any = YOLO(built).model.eval()
    x = torch.zeros(1, 3, 64, 64)
    assert trace(Detector(network), ela_blocks(network), x, [(0, 0.4321, 0.5, 0.5)]) == [{}]


def test_tracing_leaves_the_network_as_it_was(built):
    network: Any = YOLO(built).model.eval()
    before, hooks = {key: value.clone() for key, value in network.state_dict().items()}, count_hooks(network)
    x = torch.rand(1, 3, 64, 64)
    trace(Detector(network), ela_blocks(network), x, [(0, 0.0, 0.5, 0.5)])
    assert count_hooks(network) == hooks
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_heads_without_class_scores_are_refused():
    with pytest.raises(InputError, match="no class scores that can be traced; attention works for detect"):
        Detector(YOLO("yolov8-world.yaml").model)


# Pictures


CORNERS = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3], [0.1, 0.3]])


def rgba(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_the_colors_are_the_same_in_every_picture():
    from matplotlib.colors import to_rgb

    places = np.zeros((8, 8))
    places[2, 2], places[5, 5] = FULL / 0.064, -FULL / 0.064  # 64 cells: each has 1/64 of the area
    detection = Detection("star", 0.9, CORNERS, {"3": Trace(0.5, 2.2, places)})
    assert density(detection.traces["3"]).max() == pytest.approx(FULL)
    figure, panels = plot_attention(np.full((64, 64, 3), 128, np.uint8), [detection])
    drawn = panels[1].images[1].get_array()
    cell = drawn.shape[0] // 8
    for row, color in ((2, RAISES), (5, LOWERS)):
        middle = drawn[row * cell + cell // 2, row * cell + cell // 2]
        assert middle.tolist() == pytest.approx([*to_rgb(color), 0.85], abs=0.02)
    assert drawn[cell // 2, cell // 2, 3] == 0  # without an effect, the image shows
    assert rgba(figure).std() > 10


def test_a_block_without_effect_says_so_and_leaves_the_image_gray():
    detection = Detection("star", 0.9, CORNERS, {"3": Trace(0.9, 0.004, np.full((8, 8), 1e-5))})
    _, panels = plot_attention(np.zeros((64, 64, 3), np.uint8), [detection])
    assert panels[1].get_title(loc="left").splitlines() == [
        "1: star 0.90, without attention 0.90",
        "attention at layer 3 makes no difference",
    ]
    assert panels[1].images[1].get_array()[..., 3].max() < 0.01


def test_each_detection_shows_the_block_that_changes_it_the_most():
    small, large = (Trace(0.5, change, np.full((4, 4), change / 16)) for change in (0.5, -3))
    detection = Detection("star", 0.3, CORNERS, {"3": small, "6": large})
    image = np.zeros((32, 48), np.uint8)
    assert detection.strongest == "6"
    assert "layer 6 lowers its logit by 3.00" in plot_attention(image, [detection])[1][1].get_title(loc="left")
    assert "layer 3 raises its logit by 0.50" in plot_attention(image, [detection], layer="3")[1][1].get_title(
        loc="left"
    )


def test_an_image_without_detections_says_so():
    figure, (panel,) = plot_attention(np.zeros((64, 64, 3), np.uint8), [])
    assert panel.get_title(loc="left") == "nothing is detected in this image" and rgba(figure).std() > 1


def test_pictures_of_a_folder(best, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        shutil.copy(scenes()[0], tmp_path / f"images/{folder}/same.png")
    shutil.copy(scenes()[1], tmp_path / "images/a/other.png")
    files = attention(best, "images/**/*.png", imgsz=96)
    assert sorted(file.name for file in files) == ["other.png", "same-2.png", "same.png"]
    assert {file.parent.name for file in files} == {"best-attention"}
    assert all(cv2.imread(str(file)).std() > 10 for file in files)
    page = tmp_path / "best-attention/index.html"
    assert {*tmp_path.rglob("*best-attention/*")} == {page, *(file.absolute() for file in files)}


def all_detections(model, source, imgsz):
    return [each.detections for each in traced_images(open_model(model), source, imgsz, max_det=20)]


def test_a_list_of_images_gives_each_image_its_own_maps(built, tmp_path):
    """Ultralytics runs a list as one batch."""
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(files[-1]), hand_built.draw(number)[0])
    arrays = [cv2.imread(str(file)) for file in files]

    def changes(source):
        found = [[each.traces["1"] for each in detections] for detections in all_detections(built, source, 64)]
        return [[(round(each.change, 3), int(each.places.argmax())) for each in of_image] for of_image in found]

    one_by_one = [changes(file)[0] for file in files]
    assert changes(files) == changes([str(file) for file in files]) == changes(arrays) == one_by_one
    assert len({str(each) for each in one_by_one}) == 3 and all(len(each) == 5 for each in one_by_one)
    pictures = attention(built, files, tmp_path / "out", imgsz=64, max_det=2)
    assert [picture.stem for picture in pictures] == ["0", "1", "2"]


def test_a_detection_is_traced_in_the_network_input_of_its_image(built):
    """Of an image that is no square, whose input has padding, and of one that is scaled."""
    image, *_ = hand_built.draw(0)
    gray = np.full((64, 32, 3), 77, np.uint8)
    for source in (np.hstack([image, gray]), cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)):
        (found,) = all_detections(built, source, 96 if source.shape[0] == 64 else 64)
        assert len(found) == 5 and all(each.traces for each in found)


def test_frames_of_a_video_are_numbered_and_nothing_grows_with_them(best, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
    for shade in range(0, 250, 50):
        writer.write(np.full((64, 96, 3), shade, np.uint8))
    writer.release()
    files = attention(best, tmp_path / "clip.avi", tmp_path / "deep/pictures", imgsz=64)
    assert [file.name for file in files] == [f"clip-0000{number}.png" for number in range(1, 6)]
    assert all(file.is_file() for file in files)


UNTRAINED = since("8.4.175")  # before, the predictor needs what only a trained model of the task has


@pytest.mark.parametrize(
    "task", [pytest.param("cls", marks=UNTRAINED), "seg", pytest.param("pose", marks=UNTRAINED), "obb"]
)
def test_other_tasks_have_pictures_too(task, tmp_path):
    model = f"yolov8n-ela-{task}.yaml"
    files = attention(model, scenes()[0], tmp_path / "pictures", imgsz=64)
    assert [file.name for file in files] == [f"{scenes()[0].stem}.png"]


def test_blood_cells(best, tmp_path):
    photographs = SHARED / "data/bccd/images/val"
    if not photographs.is_dir():
        pytest.skip("the photographs of BCCD are not there")
    photograph = sorted(photographs.iterdir())[0]
    (file,) = attention(best, photograph, tmp_path, imgsz=160)
    assert file == tmp_path / f"{photograph.stem}.png" and cv2.imread(str(file)).std() > 10


def test_a_file_of_the_user_is_not_replaced(built, tmp_path):
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.full((64, 64, 3), 77, np.uint8))
    for target in (image, tmp_path / "index.html"):
        target.touch()
        before = target.read_bytes()
        with pytest.raises(InputError, match=rf"{target.name} exists and is not of an earlier run; name another"):
            attention(built, image, tmp_path, imgsz=64)
        assert target.read_bytes() == before
    pictures = tmp_path / "pictures"
    first, again = (attention(built, image, pictures, imgsz=64) for _ in range(2))
    assert first == again == [pictures / "image.png"]


def test_what_cannot_be_drawn_is_refused(best, tmp_path):
    with pytest.raises(InputError, match=r"has no ELA; insert it first: ela-yolo insert model=yolov8n\.yaml"):
        attention("yolov8n.yaml", scenes()[0], tmp_path / "pictures")
    with pytest.raises(CheckpointError, match=r"there is no missing\.pt"):
        attention("missing.pt", scenes()[0])
    with pytest.raises(InputError, match=r"missing\.jpg does not exist; name images with source="):
        attention(best, tmp_path / "missing.jpg", tmp_path / "pictures")
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"broken\.jpg is a file; name a folder"):
        attention(best, scenes()[0], tmp_path / "broken.jpg")
    assert not (tmp_path / "pictures").exists()


@since("8.4.0")  # before, Ultralytics itself fails at the file
@since("8.4.90")  # before, 8.4 itself fails
def test_an_image_that_cannot_be_read_is_refused(best, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(InputError, match="has no readable image"):
        attention(best, tmp_path / "broken.jpg", tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()
