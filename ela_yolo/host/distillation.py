"""Refuses what older releases of Ultralytics would distill wrongly."""

from __future__ import annotations

import inspect
from typing import Any

from ela_yolo.errors import InputError
from ela_yolo.host.lookup import open_model
from ela_yolo.host.model_blocks import all_blocks


def refuse_shifted_layers(trainer: Any) -> None:
    """Check that teacher and student have their blocks in the same places, before a training run starts.

    Before 8.4.166, Ultralytics takes the student's layer numbers for the teacher too.
    """
    teacher = getattr(trainer.args, "distill_model", None)
    if not teacher:
        return
    from ultralytics.nn import distill_model

    if "teacher_feats_idx" in inspect.getsource(distill_model):
        return
    student, other = ([*all_blocks(open_model(each).model)] for each in (trainer.args.model, teacher))
    if student != other:
        raise InputError(
            f"distill_model={teacher} has its blocks at other layers than model={trainer.args.model}, and this "
            "Ultralytics would compare the wrong layers; update it to 8.4.166 or later"
        )
