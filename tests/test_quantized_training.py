"""Quantization-aware training (`quantize=8` of `yolo train`): a model with ELA is trained, exported and compared."""

import json
import shutil
from importlib.util import find_spec

import onnx
import pytest
import torch
from conftest import BIN, HOME, RUN, forked, once, train
from ultralytics import YOLO

from ela_yolo import ELA, verify_export

pytestmark = pytest.mark.skipif(find_spec("modelopt") is None, reason="needs nvidia-modelopt: pip install it")
SCENES = HOME / "datasets/ela-yolo-scenes/images/val"


@pytest.fixture(scope="module")
def quantized(sure):
    """The checkpoint of one epoch on a tenth of the scenes, begun with weights that are sure of what they find."""
    recipe = "epochs=1 fraction=0.1 imgsz=96 batch=8 nbs=8 optimizer=SGD lr0=0.0001 warmup_epochs=0 mosaic=0 val=False"
    once("quantized", lambda folder: train(folder, f"model={sure} quantize=8 {recipe}"))
    return RUN / "quantized/run/weights/last.pt"


@pytest.mark.nightly
def test_a_quantized_checkpoint_is_exported_and_matches(quantized, tmp_path):
    weights = shutil.copy(quantized, tmp_path / "qat.pt")
    model = YOLO(weights)
    blocks = [module for module in model.model.modules() if isinstance(module, ELA)]
    assert len(blocks) == 4
    assert all(hasattr(block.conv, "weight_quantizer") for block in blocks)  # ELA's convolution is quantized too
    source = f"source={SCENES}/000*.jpg"
    done = forked(BIN / "ela-yolo", "export", "model=qat.pt", "format=onnx", "imgsz=96", source, cwd=tmp_path)
    assert "the file matches within the int8 tolerance" in done.stdout
    report = json.loads((tmp_path / "qat.onnx.parity.json").read_text(encoding="utf-8"))
    assert report["passed"] and report["detections"] >= 10  # int8 may leave a few without a counterpart
    assert [node.op_type for node in onnx.load(tmp_path / "qat.onnx").graph.node].count("QuantizeLinear") > 50

    with torch.no_grad():
        for block in blocks:
            block.gn.bias += 3
    assert not verify_export(model, tmp_path / "qat.onnx", sorted(SCENES.glob("000*.jpg"))).passed
