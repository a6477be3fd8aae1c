"""Where the parts meet: what the other folders do during a training or an export is handed to Ultralytics."""

from __future__ import annotations

from ela_yolo.gates.training import EVENTS
from ela_yolo.host import patches
from ela_yolo.host.learning_rate import warn_of_ordinary_rates
from ela_yolo.parity.hook import prepare_export

CALLBACKS = (("on_export_start", prepare_export), *EVENTS.items(), ("on_train_start", warn_of_ordinary_rates))


def register() -> None:
    """Make ``ELA`` a layer of Ultralytics in this process. Calling it again changes nothing.

    Importing ``ela_yolo`` does it as soon as Ultralytics' parser is loaded, and so does every start of an interpreter
    where ela-yolo is installed. A class named ``ELA`` that somebody else put there is left alone.

    Raises:
        RegistrationError: If Ultralytics is not as this package expects; it is then left as it was.

    Example:
        >>> import ela_yolo
        >>> ela_yolo.register()
        >>> from ultralytics.nn import tasks
        >>> tasks.ELA is ela_yolo.ELA
        True
    """
    patches.register(CALLBACKS)
