"""Registers ELA with Ultralytics, together with the callbacks of trainings and exports."""

from __future__ import annotations

from ela_yolo.gates.training import EVENTS
from ela_yolo.host import patches
from ela_yolo.host.distillation import refuse_shifted_layers
from ela_yolo.host.learning_rate import keep_saved_rates, warn_of_ordinary_rates
from ela_yolo.parity.prepare_export import prepare_export

CALLBACKS = (
    ("on_export_start", prepare_export),
    ("on_pretrain_routine_start", refuse_shifted_layers),
    ("on_pretrain_routine_end", keep_saved_rates),
    *EVENTS.items(),
    ("on_train_start", warn_of_ordinary_rates),
)


def register() -> None:
    """Register ELA as a layer of Ultralytics in this process. Another call changes nothing.

    There is rarely a need to call this: an installed ela-yolo registers ELA in every Python process as soon as the
    process imports Ultralytics' parser, and so does ``import ela_yolo``. If Ultralytics has another class named
    ``ELA``, that class is left alone.

    Raises:
        RegistrationError: If Ultralytics is not as this package expects. Nothing in it is changed then.

    Examples:
        >>> import ela_yolo
        >>> ela_yolo.register()
        >>> from ultralytics.nn import tasks
        >>> tasks.ELA is ela_yolo.ELA
        True
    """
    patches.register(CALLBACKS)
