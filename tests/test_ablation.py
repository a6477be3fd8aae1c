"""What attention contributes: on a detector whose class depends on a mark by construction, and on real ones."""

import json
import re
import shutil

import hand_built
import numpy as np
import pytest
import torch
from conftest import BIN, FEW, HOME, forked
from helpers import save, since
from torch import nn
from ultralytics import YOLO

from ela_yolo import ELA, ablate, insert, remove
from ela_yolo.errors import InputError, InsertionError
from ela_yolo.gates.ablation import (
    HARMFUL,
    NEEDED,
    UNNEEDED,
    Ablation,
    AblationReport,
    _removable,
)
from ela_yolo.gates.constant_gates import MeanFactors, held_constant
from ela_yolo.host.scoring import validate
from ela_yolo.study.worker import _validate_twice


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    return hand_built.build(folder), hand_built.data_set(folder)


def test_the_block_that_tells_the_classes_apart_is_needed_and_the_other_is_not(built):
    weights, data = built
    report = ablate(weights, data, imgsz=64)
    first, second = report.blocks
    assert report.trained > 0.9 and report.images == 12
    assert (first.layer, first.verdict, second.layer, second.verdict) == ("1", NEEDED, "2", UNNEEDED)
    assert first.score < 0.6 and first.low > 0.3 and second.contribution == 0
    assert report.together.verdict == NEEDED and report.together.score == first.score
    assert (
        "Layer 1 is needed. Layer 2 is not needed on these images." in report.summary and "layers=2." in report.summary
    )
    assert report.trained == pytest.approx(validate(YOLO(weights), data=str(data), imgsz=64, plots=False).value)


def test_a_comparison_shows_the_same_score_without_attention(built, tmp_path):
    keys = {"data": str(built[1]), "imgsz": 64, "batch": 16, "plots": False, "project": str(tmp_path)}
    scores, without = _validate_twice(YOLO(built[0]), **keys)
    report = ablate(*built, imgsz=64)
    assert (scores.value, without) == (report.trained, report.together.score) and without < scores.value - 0.3
    assert np.isnan(_validate_twice(YOLO("yolov8n.yaml"), **keys)[1])


def test_the_roles_change_with_the_weights(built, tmp_path):
    """The same data with gates that are wrong: what raises the score without them is harmful."""
    model = YOLO(built[0])
    with torch.no_grad():
        model.model.model[1].gn.weight.neg_()  # marked rows are now damped
    model.save(tmp_path / "wrong.pt")
    report = ablate(tmp_path / "wrong.pt", built[1], imgsz=64)
    assert report.blocks[0].verdict == HARMFUL and report.blocks[0].contribution < -0.01
    assert "Layer 1 is harmful." in report.summary


def test_the_mean_factor_is_that_of_the_gates_and_hooks_go():
    torch.manual_seed(0)
    for form in ("paper", "residual", "identity"):
        block = ELA(16, gate=form)
        nn.init.normal_(block.gn.weight)
        images = [torch.randn(3, 16, 8, 6), torch.randn(1, 16, 4, 10)]
        with torch.no_grad(), MeanFactors({"0": block}) as means:
            block(torch.zeros(1, 16, 4, 4))  # a warm-up, which does not count
            means.collect()
            outputs = [block(x) for x in images]
        (factor,) = means.result().values()
        gates = [
            torch.stack(
                [g.sigmoid().mean(2) for g in (block.gn(block.conv(x.mean(3))), block.gn(block.conv(x.mean(2))))]
            )
            for x in images
        ]
        along_h, along_w = torch.cat(gates, 1).mean(1)
        product = along_h * along_w * (4 if form == "identity" else 1)
        torch.testing.assert_close(factor, 1 + product if form == "residual" else product)
        with held_constant({"0": block}, {"0": factor}):
            torch.testing.assert_close(block(images[0]), images[0] * factor[:, None, None])
        assert torch.equal(block(images[0]), outputs[0]) and not block._forward_hooks


@pytest.mark.parametrize("block", ["CBAM", "CA", "SE", "ECA", "ChannelScale"])
def test_other_blocks_are_replaced_by_their_mean_factor(block, tmp_path):
    pytest.importorskip("timm", reason="pip install timm")
    insert("yolov8n.yaml", block=block, save=tmp_path / "yolov8n-other.yaml", after="P3,P4")
    torch.manual_seed(0)
    save(YOLO(tmp_path / "yolov8n-other.yaml"), tmp_path / "other.pt")
    report = ablate(tmp_path / "other.pt", FEW, imgsz=64)
    assert [each.layer for each in report.blocks] == ["5", "8"] and report.images == 8
    x, module = torch.randn(2, 64, 8, 8), YOLO(tmp_path / "other.pt").model.model[5].eval()
    with torch.no_grad(), MeanFactors({"5": module}) as means:
        means.collect()
        ratio = module(x) / x
    torch.testing.assert_close(means.result()["5"], ratio.mean((0, 2, 3)), atol=2e-2, rtol=2e-2)


class Adds(nn.Module):
    """A block that is not a factor of its input."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x):
        return x + self.bias


def test_a_block_that_is_no_factor_is_refused():
    block = Adds(8)
    with MeanFactors({"4": block}) as means:
        means.collect()
        with pytest.raises(InputError, match="layer 4 Adds does not multiply its input"):
            block(torch.randn(1, 8, 4, 4))


def test_the_command_writes_what_it_prints(retrained, tmp_path):
    shutil.copy(retrained / "weights/best.pt", tmp_path)
    done = forked(
        BIN / "ela-yolo", "ablate", "model=best.pt", f"data={FEW}", "imgsz=96", "save=best-ablation.json", cwd=tmp_path
    )
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    rows = [line for line in table[1:] if not line.startswith("| layers ")]  # several that are not needed, if any
    assert [re.search(r"layer \d+|all blocks|nothing", line)[0] for line in rows] == [
        "nothing",
        "layer 3",
        "layer 6",
        "layer 9",
        "layer 12",
        "all blocks",
    ]
    report = json.loads((tmp_path / "best-ablation.json").read_text(), parse_constant=pytest.fail)
    assert report["schema"] == 1 and [each["layer"] for each in report["blocks"]] == ["3", "6", "9", "12"]
    assert report["together"]["contribution"] == pytest.approx(report["trained"] - report["together"]["score"])
    assert all(each["low"] <= each["high"] and each["verdict"] for each in report["blocks"])
    assert {file.name for file in tmp_path.iterdir()} == {"best.pt", "best-ablation.json"}  # no folder of validations


@since("8.3.164")  # before, Ultralytics itself fails where an image shows nothing and nothing is found
@pytest.mark.parametrize(("task", "data"), [("seg", "coco8-seg"), ("pose", "coco8-pose"), ("obb", "dota8")])
def test_other_tasks_have_intervals_too(task, data, tmp_path):
    """Without labels of their own kind every score is 0, and so is every interval."""
    images = sorted((HOME / "datasets/ela-yolo-scenes/images/val").iterdir())[:2]
    (tmp_path / "images").mkdir()
    for image in images:
        shutil.copy(image, tmp_path / "images")
    names = {"names": [str(number) for number in range(80)], "kpt_shape": [17, 3]}
    (tmp_path / "data.yaml").write_text(
        json.dumps({"path": str(tmp_path), "train": "images", "val": "images", **names})
    )
    report = ablate(f"yolov8n-ela-{task}.yaml", tmp_path / "data.yaml", imgsz=64)
    assert report.metric.endswith("mAP50-95") and len(report.blocks) == 4
    assert {(each.low, each.high, each.verdict) for each in report.blocks} == {(0, 0, UNNEEDED)}


def test_a_classifier_has_no_interval(tmp_path):
    images = sorted((HOME / "datasets/ela-yolo-scenes/images/val").iterdir())[:4]
    for number, image in enumerate(images):
        for split in ("train", "val"):
            folder = tmp_path / "classes" / split / f"class-{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder)
    report = ablate("yolov8n-ela-cls.yaml", tmp_path / "classes", imgsz=64)
    assert report.metric == "top-1 accuracy" and report.together.verdict is None
    assert str(report).count("no interval for this task") == 5
    with pytest.raises(InputError, match="fraction= needs a data-set YAML"):
        ablate("yolov8n-ela-cls.yaml", tmp_path / "classes", imgsz=64, fraction=0.5)


def test_a_fraction_is_spread_over_the_images(built):
    report = ablate(*built, imgsz=64, fraction=0.5)
    assert report.images == 6 and report.blocks[0].verdict == NEEDED
    with pytest.raises(InputError, match="fraction must be above 0"):
        ablate(*built, fraction=0.0)


def test_what_cannot_be_ablated_is_refused(built):
    with pytest.raises(InputError, match="has no attention block; insert one first: ela-yolo insert"):
        ablate("yolov8n.yaml", built[1])
    with pytest.raises(InputError, match=r"there is no data=missing\.yaml"):
        ablate(built[0], "missing.yaml")


def test_a_small_contribution_is_none_and_a_report_without_need_says_so():
    tiny = Ablation("3", "ELA-B identity", 0.4996, 0.0004, 0.0001, 0.0007)
    report = AblationReport("best.pt", "my.yaml", "val", "mAP50-95", 9, 0.5, (tiny,), tiny, tiny)
    assert tiny.verdict == UNNEEDED
    assert "On these images, the model works as well without attention." in report.summary
    remove = "To remove layer 3: ela-yolo remove model=best.pt layers=3. A block's scale per channel goes too"
    assert remove in report.summary


def test_blocks_that_stand_in_for_each_other_are_not_called_removable():
    one, other = (Ablation(layer, "ELA-B identity", 0.5, 0.0, -0.01, 0.01) for layer in ("3", "6"))
    both = Ablation("3, 6", "all blocks", 0.2, 0.3, 0.2, 0.4)
    report = AblationReport("best.pt", "my.yaml", "val", "mAP50-95", 9, 0.5, (one, other), both, both)
    assert "Layers 3 and 6 are not needed on these images. But attention is needed in one of these" in report.summary
    assert "ela-yolo remove" not in report.summary


def test_a_repeated_row_is_removed_as_one_layer():
    kept = Ablation("3.0", "ELA-B paper", 0.2, 0.3, 0.2, 0.4)
    loose = [Ablation(layer, "ELA-B paper", 0.5, 0.0, -0.01, 0.01) for layer in ("3.1", "6.0", "6.1")]
    assert _removable([kept, *loose]) == ["6.0", "6.1"]


def test_the_blocks_that_are_not_needed_can_be_removed(built, tmp_path):
    removed = remove(built[0], layers=[2], save=tmp_path / "one.pt")
    assert removed.rows == (2,) and removed.layer_map == {0: 0, 1: 1, 3: 2}
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, after = (YOLO(file).model.eval()(image)[0] for file in (built[0], tmp_path / "one.pt"))
    np.testing.assert_allclose(before, after, atol=1e-3, rtol=1e-4)
    with pytest.raises(InsertionError, match="layer 5 is not a block; layers= takes 1, 2"):
        remove(built[0], layers=[5], save=tmp_path / "none.pt")
