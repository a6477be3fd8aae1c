"""The gates' own learning rate: in the row, in the optimizer of every kind, through warm-up, schedule and resume."""

import csv

import pytest
import torch
from conftest import BIN, FEW, SHARED, forked, forked_python, python
from helpers import narrow, since
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

from ela_yolo import ELA, RowError, insert
from ela_yolo.channel_scale import ChannelScale
from ela_yolo.edit.yaml_file import read_model_yaml
from ela_yolo.gates.capture import capture_gates
from ela_yolo.host.learning_rate import add_gate_param_groups
from ela_yolo.host.lookup import find_model

SLICE = {"data": str(FEW), "fraction": 0.1, "imgsz": 64, "batch": 4, "nbs": 4, "workers": 0, "plots": False}
MARKS = {"MuSGD": [since("8.4.0")]}
OPTIMIZERS = ("SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp", "auto")


def rows(*args):
    """A small detector whose layer 1 is ELA with these args."""
    return {
        "nc": 5,
        "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "ELA", [*args]], [-1, 1, "Conv", [16, 3, 2]]],
        "head": [[-1, 1, "Conv", [32, 3, 2]], [[2, 3], 1, "Detect", ["nc"]]],
    }


@pytest.fixture
def model_yaml(tmp_path):
    """Write a YAML of a thin yolov8n with ELA after its four stages, which learn at a multiple; return its file."""
    thin = tmp_path / "yolov8n-thin.yaml"
    thin.write_text(narrow(read_model_yaml(find_model("yolov8n.yaml")), 0.125))

    def write(multiple, gate="identity"):
        file = tmp_path / f"yolov8n-{gate}-{multiple}.yaml"
        insert(thin, gate=gate, lr_mult=multiple, save=file, exist_ok=True)
        return file

    return write


def train(model, folder, **keys):
    """Train on a few scenes; return the trainer, and the groups of its optimizer after each batch."""
    seen = []

    def note(trainer):
        seen.append([{**group, "params": None} for group in trainer.optimizer.param_groups])

    yolo = YOLO(model)
    yolo.add_callback("on_train_batch_end", note)
    yolo.train(**{**SLICE, "epochs": 1, "project": str(folder), "name": "run", "exist_ok": True, **keys})
    return yolo.trainer, seen


def gates(model):
    return torch.cat([p.detach().flatten() for m in model.modules() if isinstance(m, ELA) for p in m.gn.parameters()])


# In a row


@pytest.mark.parametrize(
    "args",
    [
        [{"gate": "identity", "lr_mult": 30}],
        ["B", "identity", None, None, None, 30],
    ],
)
def test_a_row_names_the_multiple(args):
    net = DetectionModel(rows(*args), verbose=False)
    assert net.model[1].lr_mult == 30
    assert "num_groups=16, lr_mult=30\n" in repr(net.model[1])


def test_without_a_multiple_nothing_is_said_of_it():
    for args in ([], ["B", "identity"], [{"gate": "identity"}], [{"lr_mult": 1}]):
        block = DetectionModel(rows(*args), verbose=False).model[1]
        assert block.lr_mult == 1 and "lr_mult" not in repr(block)


@pytest.mark.parametrize("value", [0, -1, 301, "fast", True, float("nan"), float("inf")])
def test_other_multiples_are_refused(value):
    with pytest.raises(RowError, match=r"ELA row 1 .*: lr_mult must be a number above 0 and at most 300, got"):
        DetectionModel(rows({"lr_mult": value}), verbose=False)
    with pytest.raises(ValueError, match="lr_mult must be a number above 0 and at most 300"):
        ELA(16, lr_mult=value)
    with pytest.raises(ValueError, match="lr_mult must be a number above 0 and at most 300"):
        ChannelScale(16, lr_mult=value)


def test_insert_writes_it(tmp_path):
    assert "[-1, 1, ELA, [{gate: identity, lr_mult: 30}]]" in insert("yolov8n.yaml", lr_mult=30).text
    assert (
        "[-1, 1, ELA, [{variant: S, gate: identity, lr_mult: 0.5}]]"
        in insert("yolov8n.yaml", variant="S", lr_mult=0.5).text
    )
    assert "[-1, 1, ChannelScale, [{lr_mult: 30}]]" in insert("yolov8n.yaml", block="ChannelScale", lr_mult=30).text
    shown = forked(BIN / "ela-yolo", "insert", "model=yolov8n.yaml", "lr_mult=30", "dry_run=True", cwd=tmp_path)
    assert "[-1, 1, ELA, [{gate: identity, lr_mult: 30}]]" in shown.stdout


@pytest.mark.parametrize(
    ("keys", "said", "status"),
    [
        (["lr_mult=fast"], "lr_mult must be a number, got 'fast'", 2),
        (["lr_mult=1000"], "lr_mult must be a number above 0 and at most 300, got 1000", 1),
        (["lr_mult=10", "block=SE", "gate=paper"], "SE takes no lr_mult with gate=paper; leave it out", 1),
    ],
)
def test_insert_refuses_it_in_one_line(keys, said, status, tmp_path):
    refused = forked(BIN / "ela-yolo", "insert", "model=yolov8n.yaml", *keys, cwd=tmp_path, ok=False)
    assert refused.returncode == status and said in refused.stderr and "Traceback" not in refused.stderr
    assert not [*tmp_path.iterdir()]


def test_weights_move_between_rates(model_yaml, tmp_path):
    """The multiple is about training: blocks that differ in it alone take each other's weights."""
    slow, fast = (DetectionModel(str(model_yaml(multiple)), verbose=False) for multiple in (1, 300))
    for parameter in slow.model[3].parameters():
        torch.nn.init.uniform_(parameter)
    transfer = fast.load(slow, verbose=False)
    assert transfer.kept_blocks == (3, 6, 9, 12) and torch.equal(fast.model[3].gn.weight, slow.model[3].gn.weight)
    assert fast.model[3].lr_mult == 300


# In the optimizer


def trained_by(*optimizers):
    """Each of them to train by; on a CPU two of them in every run, and the others at night."""
    every_time = optimizers if torch.cuda.is_available() else ("SGD", "AdamW")
    at_night = [pytest.mark.nightly]
    return [
        pytest.param(name, marks=[*MARKS.get(name, ()), *at_night * (name not in every_time)]) for name in optimizers
    ]


@pytest.mark.parametrize("optimizer", [pytest.param(name, marks=MARKS.get(name, ())) for name in OPTIMIZERS])
def test_the_gates_are_a_group_of_their_own(optimizer, model_yaml, tmp_path):
    """As the trainer builds the optimizer, before it trains; at the multiple of what the norms learn at."""
    keys = {**SLICE, "model": str(model_yaml(10)), "optimizer": optimizer, "project": str(tmp_path)}
    trainer = DetectionTrainer(overrides=keys)
    model = DetectionModel(str(model_yaml(10)), nc=5, verbose=False)
    optimizer = trainer.build_optimizer(model, name=optimizer, lr=0.001, momentum=0.9, decay=0.0005, iterations=100)
    (own,) = (group for group in optimizer.param_groups if "lr_mult" in group)
    norms = optimizer.param_groups[number_of_norms(optimizer, model)]
    check_group(own, model, optimizer)
    assert own["lr"] == pytest.approx(10 * norms["lr"])


def number_of_norms(optimizer, model):
    """The number of the group that has the first norm of the backbone."""
    (weight, *_) = (m.weight for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    return next(n for n, group in enumerate(optimizer.param_groups) if any(p is weight for p in group["params"]))


def check_group(own, model, optimizer):
    """The gates are in it, all else is in the others; it has no decay, and is not Muon's."""
    blocks = [m for m in model.modules() if isinstance(m, ELA)]
    assert own["lr_mult"] == 10 and own["weight_decay"] == 0 and not own.get("use_muon")
    assert {id(p) for p in own["params"]} == {id(p) for block in blocks for p in block.gn.parameters()}
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("optimizer", trained_by(*OPTIMIZERS))
def test_every_batch_is_at_the_multiple(optimizer, model_yaml, tmp_path):
    """Through warm-up, with its fast biases, and the schedule; without decay, with the momentum of the others."""
    keys = {"optimizer": optimizer, "lr0": 0.001, "warmup_epochs": 1, "warmup_bias_lr": 0.1, "momentum": 0.9}
    trainer, seen = train(model_yaml(10), tmp_path, epochs=2, **keys)
    (own,) = (group for group in trainer.optimizer.param_groups if "lr_mult" in group)
    check_group(own, trainer.model, trainer.optimizer)
    assert len(seen) > 10 and seen[0] != seen[-1]
    for groups in seen:
        norms = groups[number_of_norms(trainer.optimizer, trainer.model)]
        (gates,) = (group for group in groups if "lr_mult" in group)
        assert gates["lr"] == pytest.approx(10 * norms["lr"])
        alike = ("momentum", "betas", "nesterov", "alpha")
        assert [gates.get(key) for key in alike] == [norms.get(key) for key in alike]


@pytest.mark.parametrize("optimizer", trained_by("SGD", "MuSGD", "AdamW", "RMSProp", "auto"))
@pytest.mark.parametrize("start", ["from scratch", pytest.param("fine-tuned", marks=pytest.mark.nightly)])
def test_the_largest_multiple_is_stable(optimizer, start, model_yaml, tmp_path):
    """With AMP where the device has it: the gates have moved, and are neither shut nor wide open."""
    file = model_yaml(300)
    if start == "fine-tuned":
        if not SHARED.exists():
            pytest.skip("the official weights are in ../shared, which is not here")
        file = tmp_path / "fine.pt"
        insert(SHARED / "weights/yolov8n.pt", lr_mult=300, save=file)
    rate = {"SGD": 0.01, "MuSGD": 0.01, "RMSProp": 0.0001}.get(optimizer, 0.001)
    trainer, _ = train(file, tmp_path, optimizer=optimizer, lr0=rate, epochs=3, val=False)
    model = trainer.model.float().cpu().eval()
    with capture_gates(model) as captured, torch.no_grad():
        model(torch.rand(4, 3, 64, 64))
    assert gates(model).isfinite().all() and gates(model).abs().max() > 0.01
    for of_block in captured.values():
        sigmoids = torch.cat([gate.flatten() for gate in of_block.sigmoids()])
        assert ((sigmoids < 0.05) | (sigmoids > 0.95)).float().mean() < 0.2


def test_the_gates_of_an_identity_are_not_warmed_up_as_biases(model_yaml, tmp_path):
    """At an ordinary rate too: Adam at a rate of 0.1 would close or open them before they have learned."""
    trainer, seen = train(model_yaml(1), tmp_path, optimizer="AdamW", lr0=0.001, warmup_epochs=1, warmup_bias_lr=0.1)
    norms = number_of_norms(trainer.optimizer, trainer.model)
    for groups in seen:
        (own,) = (group for group in groups if "lr_mult" in group)
        assert own["lr"] == pytest.approx(groups[norms]["lr"]) and own["lr"] <= 0.001
    assert 0 < gates(trainer.model).abs().max() < 0.01


def test_where_no_row_has_a_multiple_the_optimizer_is_ultralytics_own(model_yaml, tmp_path):
    """In the form of the paper."""
    trainer, _ = train(model_yaml(1, "paper"), tmp_path / "paper", optimizer="SGD")
    plain, _ = train("yolov8n.yaml", tmp_path / "plain", optimizer="SGD")
    assert len(trainer.optimizer.param_groups) == len(plain.optimizer.param_groups)


@pytest.mark.parametrize(("optimizer", "largest"), [("AdamW", 0.5), ("SGD", 0.1)])
def test_a_rate_above_the_limit_is_lowered_and_logged(optimizer, largest, model_yaml, tmp_path):
    done = forked(
        *(BIN / "yolo", "train", f"model={model_yaml(300)}", f"optimizer={optimizer}", "lr0=0.01", "epochs=1"),
        *(f"{key}={value}" for key, value in SLICE.items()),
        *("warmup_epochs=0", "val=False", f"project={tmp_path}"),
        cwd=tmp_path,
    )
    told = f"lr_mult=300 of lr=0.01 exceeds the limit for {optimizer}, so the gates train at {largest}"
    assert told in done.stdout + done.stderr
    with next(tmp_path.glob("*/results.csv")).open() as table:
        (row,) = csv.DictReader(table, skipinitialspace=True)
    assert max(float(row[key]) for key in row if key.startswith("lr/")) == pytest.approx(largest)


def test_two_multiples_are_two_groups():
    model = torch.nn.Sequential(ELA(16, lr_mult=10), ELA(16), ChannelScale(16, lr_mult=100), ELA(16, lr_mult=10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0001, momentum=0.9, weight_decay=0.01)
    add_gate_param_groups(optimizer, model)
    add_gate_param_groups(optimizer, model)  # again changes nothing
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (5, 0.0001, 0.01),
        (4, 0.001, 0.0),
        (1, 0.01, 0.0),
    ]


def test_a_trainer_with_an_optimizer_of_its_own_is_told(model_yaml, tmp_path, caplog):
    class Own(DetectionTrainer):
        def build_optimizer(self, model, *args, **kwargs):
            return torch.optim.SGD([{"params": [*model.parameters()], "lr": 0.01, "param_group": "all"}])

    with caplog.at_level("WARNING", logger="ultralytics"):
        YOLO(model_yaml(30)).train(trainer=Own, **SLICE, epochs=1, project=str(tmp_path))
    assert "ela-yolo: Own builds its own optimizer, so the gates train at its learning rate" in caplog.text


# Beyond one training


ENDED = """
from ultralytics import YOLO
def stop(trainer):
    if trainer.epoch == 1:
        raise SystemExit(f"LR {{trainer.optimizer.param_groups[-1]['initial_lr']}}")
model = YOLO({model!r})
model.add_callback("on_model_save", stop)
model.train(epochs=3, project={folder!r}, name="run", optimizer="AdamW", lr0=0.001, **{keys!r})
"""
RESUMED = """
import torch
from ultralytics import YOLO
saved = torch.load({last!r}, weights_only=False)["optimizer"]
def compare(trainer):
    group = trainer.optimizer.param_groups[-1]
    states = [trainer.optimizer.state[p]["exp_avg"] for p in group["params"]]
    assert group["lr_mult"] == 30 and group["initial_lr"] == 0.03, group
    before = [saved["state"][number]["exp_avg"].float() for number in saved["param_groups"][-1]["params"]]
    assert all(torch.equal(now, then) for now, then in zip(states, before, strict=True)) and len(states) == 8
    print("continues")
model = YOLO({last!r})
model.add_callback("on_train_start", compare)
model.train(resume=True)
"""


def test_a_training_resumes_at_the_multiple(model_yaml, tmp_path):
    code = ENDED.format(model=str(model_yaml(30)), folder=str(tmp_path), keys=SLICE)
    ended = forked_python(code, cwd=tmp_path, ok=False)
    assert "LR 0.03" in ended.stderr
    last = tmp_path / "run/weights/last.pt"
    assert "continues" in forked_python(RESUMED.format(last=str(last)), cwd=tmp_path).stdout.splitlines()
    with (tmp_path / "run/results.csv").open() as table:
        rates = [
            [float(row[f"lr/pg{group}"]) for group in (1, 3)] for row in csv.DictReader(table, skipinitialspace=True)
        ]
    assert len(rates) == 3 and all(gates == pytest.approx(30 * others, rel=1e-3) for others, gates in rates)
    (block, *_) = (m for m in torch.load(last, weights_only=False)["model"].modules() if isinstance(m, ELA))
    assert block.lr_mult == 30


@pytest.mark.parametrize(
    "args",
    [
        pytest.param([{"gate": "identity", "lr_mult": 5}], marks=pytest.mark.nightly),
        [],
        pytest.param([{"gate": "identity"}], marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_a_training_goes_on_at_the_saved_rates_if_the_model_says_others(args, model_yaml, tmp_path):
    code = ENDED.format(model=str(model_yaml(30)), folder=str(tmp_path), keys=SLICE)
    forked_python(code, cwd=tmp_path, ok=False)
    last = tmp_path / "run/weights/last.pt"
    checkpoint = torch.load(last, weights_only=False)
    for model in (checkpoint["model"], checkpoint["ema"]):
        rows = [] if model is None else [row for row in model.yaml["backbone"] + model.yaml["head"] if row[2] == "ELA"]
        for row in rows:
            row[3] = args
    torch.save(checkpoint, last)
    done = forked_python(RESUMED.format(last=str(last)), cwd=tmp_path)
    assert "continues" in done.stdout.splitlines()
    assert "the resumed run was started with [30]; it continues with the saved rates" in done.stdout + done.stderr
    with (tmp_path / "run/results.csv").open() as table:
        rates = [[float(row[f"lr/pg{i}"]) for i in (1, 3)] for row in csv.DictReader(table, skipinitialspace=True)]
    assert len(rates) == 3 and all(gates == pytest.approx(30 * others, rel=1e-3) for others, gates in rates)


def test_the_trainer_is_left_alone_without_blocks(tmp_path):
    code = """
from ultralytics import YOLO
from ultralytics.engine.trainer import BaseTrainer
before = BaseTrainer.build_optimizer
YOLO("yolov8n.yaml")
print(BaseTrainer.build_optimizer is before)
YOLO("yolov8n-ela.yaml")
print(BaseTrainer.build_optimizer.__wrapped__ is before)
"""
    assert python(code, cwd=tmp_path).stdout.splitlines()[-2:] == ["True", "True"]
