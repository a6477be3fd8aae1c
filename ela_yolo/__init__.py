"""Efficient Local Attention as a layer of Ultralytics YOLO.

Importing this arms the registration; an installed ``ela-yolo`` does it at every interpreter start. Neither torch nor
ultralytics is loaded until a public name that needs them is used.
"""

from ela_yolo.autoload import arm as _arm

TYPE_CHECKING = False  # typing itself would cost more than all the rest here
if TYPE_CHECKING:
    from ela_yolo.attention import gate_health
    from ela_yolo.blocks import register_block
    from ela_yolo.ela import ELA
    from ela_yolo.errors import (
        CheckpointError,
        CompareError,
        ELAError,
        ExportError,
        InputError,
        InsertionError,
        ModelYamlError,
        RegistrationError,
        RenderError,
        RowError,
    )
    from ela_yolo.gate_plot import plot_attention
    from ela_yolo.gates import capture_gates
    from ela_yolo.graft import insert, layer_map, remove
    from ela_yolo.insertion import Insertion
    from ela_yolo.parity import ParityReport
    from ela_yolo.registration import register
    from ela_yolo.verify import verify_export
    from ela_yolo.weights import WeightTransfer

__version__ = "0.1.0"

_HOME = {
    "CheckpointError": "errors",
    "CompareError": "errors",
    "ELA": "ela",
    "ELAError": "errors",
    "ExportError": "errors",
    "InputError": "errors",
    "Insertion": "insertion",
    "InsertionError": "errors",
    "ModelYamlError": "errors",
    "ParityReport": "parity",
    "RegistrationError": "errors",
    "RenderError": "errors",
    "RowError": "errors",
    "WeightTransfer": "weights",
    "capture_gates": "gates",
    "gate_health": "attention",
    "insert": "graft",
    "layer_map": "graft",
    "plot_attention": "gate_plot",
    "register": "registration",
    "register_block": "blocks",
    "remove": "graft",
    "verify_export": "verify",
}

__all__ = [
    "ELA",
    "CheckpointError",
    "CompareError",
    "ELAError",
    "ExportError",
    "InputError",
    "Insertion",
    "InsertionError",
    "ModelYamlError",
    "ParityReport",
    "RegistrationError",
    "RenderError",
    "RowError",
    "WeightTransfer",
    "capture_gates",
    "gate_health",
    "insert",
    "layer_map",
    "plot_attention",
    "register",
    "register_block",
    "remove",
    "verify_export",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


_arm()
