"""Other blocks than ELA, under a name of their own: in rows, in insert and remove, in weights and in every process."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from conftest import BIN, forked, forked_python, python, run
from torch import nn

import ela_yolo
from ela_yolo import ELA, InputError, InsertionError, RowError, insert, register_block, remove
from ela_yolo.channel_scale import ChannelScale
from ela_yolo.host.blocks import ENVIRONMENT, is_block, known_blocks
from ela_yolo.host.learning_rate import add_gate_param_groups
from ela_yolo.host.model_blocks import all_blocks

FAST = ("data=scenes.yaml", "epochs=1", "fraction=0.05", "imgsz=64", "batch=4", "workers=0", "plots=False")
MINE = """
from torch import nn

class Halves(nn.Module):
    def __init__(self, channels, factor=0.5):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), factor))

    def forward(self, x):
        return x * self.scale
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's with a block, importable here and in processes that start from here."""
    (tmp_path / "users_blocks.py").write_text("import torch\n" + MINE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, "")
    import users_blocks

    yield users_blocks
    del __import__("sys").modules["users_blocks"]


@pytest.mark.parametrize("name", ["CA", "CBAM", "ECA", "SE"])
def test_timms_blocks_go_in_keep_ultralytics_weights_and_come_out(name, tmp_path):
    pytest.importorskip("timm")
    inserted = insert("yolov8n.yaml", block=name, save=tmp_path / "yolov8-other.yaml")
    assert inserted.rows == (3, 6, 9, 12) and f"[-1, 1, {name}, [{{identity: true, lr_mult: 100}}]]" in inserted.text
    assert f"[-1, 1, {name}, []]" in insert("yolov8n.yaml", block=name, gate="paper").text
    original = Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8.yaml"
    assert remove(tmp_path / "yolov8-other.yaml").text == original.read_text()
    from ultralytics import YOLO

    original, model = YOLO("yolov8n.yaml").model, YOLO(tmp_path / "yolov8n-other.yaml").model
    transfer = model.load(original, verbose=False)
    assert (transfer.kept, transfer.total) == (355, 355)
    block = type(model.model[3].block).__name__
    assert is_block(model.model[3]) and str(transfer).endswith(f"; 4 new {block} (3, 6, 9, 12)")
    assert ela_yolo.layer_map(tmp_path / "yolov8n-other.yaml")[9] == 13


def test_a_checkpoint_with_another_block_trains_and_trains_on_by_the_stock_command(trained, tmp_path):
    pytest.importorskip("timm")
    plain = tmp_path / "plain.pt"
    remove(trained / "weights/best.pt", save=plain)
    done = forked(BIN / "ela-yolo", "insert", f"model={plain}", "block=SE", cwd=tmp_path)
    assert "355/355 pretrained tensors kept; 4 new SEModule (3, 6, 9, 12)" in done.stdout
    assert "changes the model's outputs" not in done.stdout
    model = tmp_path / "plain-se.pt"
    for name in ("first", "second"):
        done = forked(
            BIN / "yolo", "train", f"model={model}", *FAST, f"project={tmp_path}", f"name={name}", cwd=tmp_path
        )
        model = tmp_path / name / "weights/last.pt"
    assert "4 SEModule kept (3, 6, 9, 12)" in done.stdout
    assert f"ela-yolo ablate model={tmp_path}/second/weights/best.pt" in done.stdout
    assert remove(model).rows == (3, 6, 9, 12)


@pytest.mark.parametrize("name", ["CA", "CBAM", "ECA", "SE"])
def test_a_block_that_starts_as_an_identity_detects_the_same_and_learns(name, trained, tmp_path):
    pytest.importorskip("timm")
    from ultralytics import YOLO

    plain, other = tmp_path / "plain.pt", tmp_path / "other.pt"
    remove(trained / "weights/best.pt", save=plain)
    insert(plain, block=name, lr_mult=30, save=other)
    image = torch.rand(1, 3, 64, 96)
    before, after = YOLO(plain).model.eval(), YOLO(other).model.eval()
    with torch.inference_mode():
        assert torch.equal(before(image)[0], after(image)[0])
    block = all_blocks(after)["3"]
    optimizer = torch.optim.AdamW(after.parameters(), lr=0.001)
    add_gate_param_groups(optimizer, after)
    (own,) = (group for group in optimizer.param_groups if any(each is block.scale for each in group["params"]))
    assert own["lr"] == pytest.approx(0.03) and len(own["params"]) == 4
    x = torch.rand(2, 32, 6, 4)
    block.requires_grad_(True)(x).square().sum().backward()
    assert block.scale.grad.any() and not block.scale.any()
    with torch.no_grad():
        block.scale.fill_(0.5)
        assert torch.allclose(block(x), 0.5 * x + 0.5 * block.block(x))
    assert [*all_blocks(after)] == ["3", "6", "9", "12"]
    assert remove(other).transfer.complete


def test_a_block_takes_its_weights_whatever_its_learning_rate(tmp_path):
    pytest.importorskip("timm")
    from ultralytics import YOLO

    for lr_mult in (1, 30):
        insert("yolov8n.yaml", block="SE", lr_mult=lr_mult, save=tmp_path / f"yolov8-{lr_mult}.yaml")
    one, other = (YOLO(tmp_path / f"yolov8n-{lr_mult}.yaml").model for lr_mult in (1, 30))
    torch.nn.init.ones_(one.model[3].scale)
    assert other.load(one, verbose=False).kept_blocks == (3, 6, 9, 12)
    assert other.model[3].scale.all() and other.model[3].lr_mult == 30


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("[{identity: 1}]", "identity must be true or false, got 1"),
        ("[{lr_mult: 10}]", "lr_mult is for a block that starts as an identity; add identity: true"),
        ("[{identity: true, lr_mult: 301}]", "lr_mult must be a number above 0 and at most 300, got 301"),
        ("[{identity: true, rd: 2}]", "unknown key 'rd'.*; named in a mapping also identity and lr_mult"),
        ("[{identity: true, rd_ratio: 3}]", "rd_ratio must be above 0 and at most 1, got 3"),
    ],
)
def test_wrong_args_of_a_block_that_starts_as_an_identity(args, message, tmp_path):
    pytest.importorskip("timm")
    from ultralytics import YOLO

    text = insert("yolov8n.yaml", block="SE").text.replace("[{identity: true, lr_mult: 100}]", args)
    (tmp_path / "yolov8-se.yaml").write_text(text)
    with pytest.raises(RowError, match=message):
        YOLO(tmp_path / "yolov8n-se.yaml")


def test_the_other_layers_start_the_same_with_a_block_as_without():
    pytest.importorskip("timm")
    from ultralytics.nn.tasks import parse_model

    def last_conv(block):
        torch.manual_seed(3)
        rows = [[-1, 1, "Conv", [64, 3, 2]], *block, [-1, 1, "Conv", [64, 3, 2]]]
        return parse_model({"backbone": rows, "head": [], "nc": 1}, 3, False)[0][-1].conv.weight

    plain = last_conv([])
    for row in (["ELA", []], ["ELA", ["L", "identity"]], ["ChannelScale", []], ["CBAM", [{"identity": True}]]):
        assert torch.equal(last_conv([[-1, 1, *row]]), plain)
    model = parse_model({"backbone": [[-1, 1, "ELA", []], [-1, 1, "ELA", []]], "head": [], "nc": 1}, 64, False)[0]
    assert model[0].conv.weight.std() > 0


@pytest.mark.skipif(
    not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"), reason="this torch cannot list them"
)
def test_a_checkpoint_of_timms_blocks_may_be_loaded_safely(trained, tmp_path):
    pytest.importorskip("timm")
    remove(trained / "weights/best.pt", save=tmp_path / "plain.pt")
    insert(tmp_path / "plain.pt", block="CBAM", save=tmp_path / "cbam.pt")
    code = "from ultralytics import YOLO; print(YOLO('cbam.pt').model.model[3].block.spatial)"
    done = forked_python(code, cwd=tmp_path, env={"ULTRALYTICS_SAFE_LOAD": "1"})
    assert "SpatialAttn" in done.stdout


SAFE = """
import io
import torch
from ultralytics import YOLO

torch.save(YOLO("model.yaml").model.model[1], file := io.BytesIO())
file.seek(0)
left = torch.serialization.get_unsafe_globals_in_checkpoint(file)
print([name for name in left if name.startswith("ela_yolo")])
"""


@pytest.mark.skipif(
    not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"), reason="this torch cannot list them"
)
@pytest.mark.parametrize("block", [name for name, path in known_blocks().items() if path.startswith("ela_yolo")])
def test_a_checkpoint_of_our_own_blocks_may_be_loaded_safely(block, tmp_path):
    rows = [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, block, []]]
    content = {"nc": 2, "backbone": rows, "head": [[[1], 1, "Detect", ["nc"]]]}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert forked_python(SAFE, cwd=tmp_path).stdout.splitlines()[-1] == "[]"


def test_a_block_of_the_user_is_known_here_and_in_processes_that_start_from_here(mine, tmp_path):
    register_block("Halves", mine.Halves)
    register_block("Halves", mine.Halves)
    assert os.environ[ENVIRONMENT] == "Halves=users_blocks:Halves"
    inserted = insert("yolov8n.yaml", block="Halves", gate="paper", after=21, save=tmp_path / "yolov8-mine.yaml")
    text = inserted.text.replace("Halves, []", "Halves, [0.25]")
    (tmp_path / "yolov8-mine.yaml").write_text(text)
    run(BIN / "yolo", "train", "model=yolov8n-mine.yaml", *FAST, f"project={tmp_path}", "name=run", cwd=tmp_path)
    code = """
import ela_yolo
from ultralytics import YOLO
layer = YOLO("yolov8n-mine.yaml").model.model[22]
print(type(layer).__name__, layer.scale.shape[1], layer.scale[0, 0].item())
print(ela_yolo.remove("run/weights/last.pt").rows)
"""
    again = python(code, cwd=tmp_path, env={ENVIRONMENT: "Halves=users_blocks:Halves"})
    assert again.stdout.splitlines()[-2:] == ["Halves 256 0.25", "(22,)"]


def test_without_the_variable_another_process_does_not_know_it(mine, tmp_path):
    insert_text = insert("yolov8n.yaml", after=21).text.replace("ELA", "Halves")
    (tmp_path / "yolov8-mine.yaml").write_text(insert_text)
    done = forked(BIN / "ela-yolo", "ablate", "model=yolov8n-mine.yaml", "data=scenes.yaml", cwd=tmp_path, ok=False)
    assert done.returncode == 1 and "names Halves, which is not a module of Ultralytics" in done.stderr


@pytest.mark.parametrize(
    ("name", "block", "message"),
    [
        ("two words", nn.Identity, "the name of a block must be one word of letters and digits, got 'two words'"),
        ("ELA", nn.Identity, "ELA is already the name of ela_yolo.ela:ELA"),
        ("CA", nn.Identity, "CA is already the name of timm.layers.coord_attn:CoordAttn"),
        ("Conv", nn.Identity, "Ultralytics already has a module Conv; choose another name for Identity"),
        ("Mine", lambda channels: nn.Identity(), "Mine: a block must be a subclass of torch.nn.Module, not <function"),
        ("Mine", type("Local", (nn.Identity,), {"__module__": "__main__"}), "define Local in a module"),
        ("Mine", type("Hidden", (nn.Identity,), {}), "define Hidden in a module"),
    ],
)
def test_what_is_no_block_is_refused_and_nothing_is_changed(name, block, message, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "")
    before = known_blocks()
    with pytest.raises(InputError, match=re.escape(message)):
        register_block(name, block)
    assert known_blocks() == before


def test_unknown_and_missing_blocks_name_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no block CAB; there are ELA, ChannelScale, CA"):
        insert("yolov8n.yaml", block="CAB")
    with pytest.raises(InsertionError, match="variant= applies to ELA only, not to SE"):
        insert("yolov8n.yaml", block="SE", variant="B")
    (tmp_path / "yolov8-gone.yaml").write_text(insert("yolov8n.yaml", after=21).text.replace("ELA", "Gone"))
    monkeypatch.setenv(ENVIRONMENT, "Gone=no_such_module:Gone")
    from ultralytics import YOLO

    with pytest.raises(RowError, match=r"Gone is no_such_module:Gone, which cannot be imported .*; correct ELA_YOLO"):
        YOLO(tmp_path / "yolov8n-gone.yaml")


def test_a_row_gives_the_channels_of_the_layer_that_it_reads():
    pytest.importorskip("timm")
    from ultralytics.nn.tasks import parse_model

    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [0, 2, "SE", [0.25]], [-1, 1, "nn.Identity", []]]
    model, _ = parse_model({"backbone": rows, "head": [], "nc": 1}, 3, False)
    assert model[2](torch.zeros(1, 16, 4, 4)).shape == (1, 16, 4, 4)
    assert len(model[2]) == 2 and model[2][0].fc1.out_channels == 8


def test_a_model_of_ultralytics_own_is_never_touched_by_names(tmp_path):
    """A fork has a CBAM, timm is not there, and the variable names what Ultralytics has: all goes on as without us."""
    (tmp_path / "yolov8-cbam.yaml").write_text(insert("yolov8n.yaml", block="CBAM", gate="paper", after=21).text)
    code = """
import sys
sys.modules["timm"] = None
import ela_yolo
from ultralytics import YOLO
from ultralytics.nn import modules, tasks
class CBAM(modules.CBAM):
    def __init__(self): super().__init__(256)
tasks.CBAM = CBAM
print(type(YOLO("yolov8n-cbam.yaml").model.model[22]).__name__, len(YOLO("yolov8n.yaml").model.model))
for change in (lambda: ela_yolo.remove("yolov8n-cbam.yaml"), lambda: ela_yolo.remove("yolov8n.yaml")):
    try: change()
    except ela_yolo.InsertionError as error: print(error)
print(ela_yolo.layer_map("yolov8n-cbam.yaml")[22], ela_yolo.insert("yolov8n.yaml", after=4).rows)
"""
    env = {ENVIRONMENT: "Conv=nope:Bar,C2f=users_blocks:C2f,Mine,a b=c:d"}
    printed = forked_python(code, cwd=tmp_path, env=env).stdout.splitlines()
    assert printed[-4:] == [
        "CBAM 23",
        "yolov8-cbam.yaml has no blocks to remove",
        "yolov8.yaml has no blocks to remove",
        "22 (5,)",
    ]


def test_a_block_that_cannot_be_imported_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "boom.py").write_text("raise RuntimeError('boom')")
    env = {ENVIRONMENT: "Mine=boom:X,Other=nope:X,broken"}
    command = [sys.executable, "-c", "import sys; from ela_yolo.cli.main import main; sys.exit(main())"]  # finds boom
    for name, reason in (("Mine", "RuntimeError: boom"), ("Other", "No module named 'nope'")):
        keys = ["model=yolov8n.yaml", f"block={name}", "save=mine.yaml"]
        done = forked(*command, "insert", *keys, cwd=tmp_path, env=env, ok=False)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and reason in done.stderr
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize("entry", ["Mine", "SE=my:SE"])
def test_an_entry_that_is_malformed_or_taken_is_named_and_ignored(entry, tmp_path):
    code = "from ultralytics import YOLO; print(len(YOLO('yolov8n.yaml').model.model))"
    done = python(code, cwd=tmp_path, env={ENVIRONMENT: entry})
    assert (
        f"ELA_YOLO_BLOCKS has the entry {entry}, which is ignored; write NAME=module:Class" in done.stdout + done.stderr
    )
    assert done.stdout.splitlines()[-1] == "23"


def test_channel_scale_is_ela_whose_norm_weight_is_zero():
    ela, scale = ELA(16, gate="identity"), ChannelScale(16)
    x = torch.randn(2, 16, 9, 7)
    assert torch.equal(scale(x), x)
    with torch.no_grad():
        scale.bias.normal_()
        ela.gn.bias.copy_(scale.bias)
    assert torch.allclose(scale(x), ela(x), atol=1e-6)
    assert scale(x.half()).dtype == torch.half
    scale.reset_parameters()
    assert torch.equal(scale(x), x)
