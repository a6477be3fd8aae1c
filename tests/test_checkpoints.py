"""Checkpoints of a changed Ultralytics with an ELA class that is not installed here."""

import sys
from types import ModuleType

import pytest
import torch
from conftest import BIN, forked
from torch import nn

from ela_yolo import CheckpointError, insert
from ela_yolo.host.checkpoints import check_classes


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gn = nn.Conv1d(256, 256, 7, padding=3, groups=256), nn.GroupNorm(16, 256)


@pytest.fixture
def fork(plain, tmp_path):
    """A checkpoint whose layer 10 is of the class ultralytics.nn.ela.ELA_Attention, which is gone afterwards."""
    file = tmp_path / "fork.pt"
    insert(plain, after=9, save=file)
    checkpoint = torch.load(file, weights_only=False)
    Foreign.__module__, Foreign.__qualname__, Foreign.__name__ = "ultralytics.nn.ela", "ELA_Attention", "ELA_Attention"
    sys.modules["ultralytics.nn.ela"] = module = ModuleType("ultralytics.nn.ela")
    setattr(module, "ELA_Attention", Foreign)  # noqa: B010 (mypy knows no such attribute)
    try:
        checkpoint["model"].model[10] = Foreign()
        torch.save(checkpoint, file)
    finally:
        del sys.modules["ultralytics.nn.ela"]
    return file


def test_the_missing_class_and_the_remedy_are_named(fork, tmp_path):
    for command in (["insert", f"model={fork}"], ["ablate", f"model={fork}", "data=scenes.yaml"]):
        done = forked(BIN / "ela-yolo", *command, cwd=tmp_path, ok=False)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert f"{fork} holds the class ultralytics.nn.ela.ELA_Attention of a modified Ultralytics" in done.stderr
        assert "load the state dict into that" in done.stderr


def test_other_checkpoints_and_damaged_files_pass(plain, trained, tmp_path):
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04")
    for file in (plain, trained / "weights/best.pt", tmp_path / "damaged.pt", tmp_path / "missing.pt"):
        check_classes(file)


def test_nothing_is_imported_where_loading_is_restricted(fork, monkeypatch):
    with pytest.raises(CheckpointError):
        check_classes(fork)
    monkeypatch.setattr("ultralytics.utils.SAFE_LOAD", True, raising=False)
    check_classes(fork)
