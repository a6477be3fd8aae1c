"""What ELA costs, measured on real models; no test asserts a time."""

import json
import sys
import time

import pytest
import torch
from conftest import BIN, REPO, forked, forked_python, run
from helpers import SHORT_PROFILE
from ultralytics import YOLO

from ela_yolo import insert
from ela_yolo.cost.measure import peak_memory
from ela_yolo.cost.result import ModelCost, Profile, Time
from ela_yolo.cost.timing import WARM_UP, alternate

ROWS = {"parameters", "gflops", "latency", "onnx", "training"}


def short_profile(*arguments, cwd):
    return forked(sys.executable, "-c", SHORT_PROFILE, *arguments, cwd=cwd)


def test_a_model_beside_its_plain_model(tmp_path):
    done = forked(BIN / "ela-yolo", "profile", "model=yolov8n-ela.yaml", "imgsz=64", "save=cost.json", cwd=tmp_path)
    assert done.stdout.endswith("written to cost.json\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cost.json"]
    models = (YOLO(name).model for name in ("yolov8n.yaml", "yolov8n-ela.yaml"))
    plain, ela = (sum(parameter.numel() for parameter in model.parameters()) for model in models)
    assert f"| parameters | {plain:,} | {ela:,} | {ela / plain:.3f} |" in done.stdout and ela - plain == 4320
    text = (tmp_path / "cost.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["schema"] == 2 and found["model"] == "yolov8n-ela.yaml" and found["imgsz"] == 64
    assert found["ratios"].keys() == ROWS
    for row in ("latency", "onnx", "training"):
        low, high = found["intervals"][row]
        assert low <= found["ratios"][row] <= high
    for side in ("plain", "ela"):
        for row in ("latency", "onnx", "training"):
            assert 0 < found[side][row]["low"] <= found[side][row]["median"] <= found[side][row]["high"]
    assert found["ela"]["gflops"] > found["plain"]["gflops"]
    assert [(block["layer"], block["input"], block["parameters"]) for block in found["blocks"]] == [
        ("3", [32, 16, 16], 288),
        ("6", [64, 8, 8], 576),
        ("9", [128, 4, 4], 1152),
        ("12", [256, 2, 2], 2304),
    ]
    assert all(0 < block["share"] < 1 for block in found["blocks"])


def test_a_checkpoint_and_a_file_to_save_to(trained, tmp_path):
    done = short_profile(f"model={trained}/weights/best.pt", "imgsz=64", "save=costs.json", cwd=tmp_path)
    assert "| 3 | ELA-B paper | 32x16x16 | 288 |" in done.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["costs.json"]


def test_stacked_blocks_are_measured_one_by_one(tmp_path):
    text = insert("yolov8n.yaml", after=21, gate="paper").text.replace(
        "[-1, 1, ELA, []]", "[-1, 6, ELA, []]"
    )  # 2 at scale n
    (tmp_path / "yolov8-stacked.yaml").write_text(text)
    printed = short_profile("model=yolov8n-stacked.yaml", "imgsz=64", cwd=tmp_path).stdout
    assert [line.split(" | ")[0] for line in printed.splitlines() if "ELA-B paper" in line] == ["| 22.0", "| 22.1"]


def test_without_onnx_runtime_the_rest_is_measured(tmp_path):
    code = """
import sys
sys.modules["onnxslim"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "onnxslim" else find(name, *rest)
from ela_yolo.cost.measure import profile
print(profile("yolov8n-ela.yaml", 64))
"""
    printed = forked_python(code, cwd=tmp_path).stdout
    assert "ONNX Runtime was not measured: pip install onnx onnxslim onnxruntime" in printed
    assert "| ONNX Runtime |" not in printed and "| training step |" in printed


def test_a_ratio_to_nothing_is_left_out(tmp_path):
    time_, nothing = Time(1, 1, 1), None
    plain = ModelCost(10, 0.0, time_, nothing, time_, 0.0, nothing)
    ela = ModelCost(11, 0.0, time_, nothing, time_, 1.5, nothing)
    ratios = {"parameters": 1.1, "gflops": None, "latency": 1.0, "training": 1.0, "memory": None}
    result = Profile("a.pt", 64, "mps", "a machine", plain, ela, ratios, {"latency": (0.98, 1.03)}, ())
    assert "| PyTorch, fused | 1 ms (1 to 1) | 1 ms (1 to 1) | 1.000 (0.980 to 1.030) |" in str(result)
    assert "| GFLOPs | 0.000 | 0.000 | - |" in str(result) and "| peak memory | 0.0 MB | 1.5 MB | - |" in str(result)
    assert "training |" not in str(result)
    target = result.save(tmp_path / "costs.json")
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["ratios"]["memory"] is None and found["ela"]["training_memory"] is None


@pytest.mark.parametrize("device", ["cpu", *["mps"] * hasattr(torch, "mps")])
def test_memory_is_none_on_a_device_that_does_not_report_it(device):
    assert peak_memory(lambda: None, torch.device(device)) is None


def test_calls_take_turns_in_a_changing_order():
    order = []
    calls = {name: lambda name=name: order.append(name) or time.sleep(0) for name in "abc"}
    seconds = alternate(calls, rounds=20)
    assert [len(times) for times in seconds.values()] == [20, 20, 20]
    turns = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(turns) == 20 + WARM_UP and {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert len(set(turns)) > 3


@pytest.mark.nightly  # what it measures on a GPU, on small inputs
def test_the_script_of_the_gpu_runs_on_a_cpu(tmp_path):
    printed = run(sys.executable, REPO / "tools/gpu.py", "device=cpu", cwd=tmp_path).stdout
    assert printed.count("| block 2x") == 24 and printed.count("| training step of yolov8") == 3
