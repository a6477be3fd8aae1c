"""Efficient Local Attention (ELA) as a layer of Ultralytics YOLO.

Importing this package registers ELA as soon as Ultralytics is imported; an installed ``ela-yolo`` does so in every
process, unless ``ELA_YOLO_AUTOLOAD=0`` is set. Neither torch nor ultralytics is imported until a public name that needs
them is used.
"""

from ela_yolo._version import __version__ as __version__
from ela_yolo.start import at_import as _at_import

TYPE_CHECKING = False  # typing itself would cost more than all the rest here
if TYPE_CHECKING:
    from ela_yolo.cost.measure import profile as profile
    from ela_yolo.cost.result import Profile as Profile
    from ela_yolo.edit.insert import Insertion as Insertion
    from ela_yolo.edit.insert import insert as insert
    from ela_yolo.edit.insert import layer_map as layer_map
    from ela_yolo.edit.insert import remove as remove
    from ela_yolo.ela import ELA as ELA
    from ela_yolo.errors import CheckpointError as CheckpointError
    from ela_yolo.errors import CompareError as CompareError
    from ela_yolo.errors import DatasetError as DatasetError
    from ela_yolo.errors import ELAError as ELAError
    from ela_yolo.errors import ExportError as ExportError
    from ela_yolo.errors import InputError as InputError
    from ela_yolo.errors import InsertionError as InsertionError
    from ela_yolo.errors import ModelYamlError as ModelYamlError
    from ela_yolo.errors import RegistrationError as RegistrationError
    from ela_yolo.errors import RowError as RowError
    from ela_yolo.gates.ablation import AblationReport as AblationReport
    from ela_yolo.gates.ablation import ablate as ablate
    from ela_yolo.gates.attention import attention as attention
    from ela_yolo.gates.attribution_picture import plot_attention as plot_attention
    from ela_yolo.gates.capture import capture_gates as capture_gates
    from ela_yolo.host.blocks import register_block as register_block
    from ela_yolo.host.weight_matching import WeightTransfer as WeightTransfer
    from ela_yolo.parity.export import export as export
    from ela_yolo.parity.report import ParityReport as ParityReport
    from ela_yolo.parity.verify import verify_export as verify_export
    from ela_yolo.plugin import register as register
    from ela_yolo.study.compare import compare as compare
    from ela_yolo.study.result import CompareResult as CompareResult

_HOME = {
    "AblationReport": "gates.ablation",
    "CheckpointError": "errors",
    "CompareError": "errors",
    "CompareResult": "study.result",
    "ELA": "ela",
    "ELAError": "errors",
    "ExportError": "errors",
    "InputError": "errors",
    "Insertion": "edit.insert",
    "InsertionError": "errors",
    "ModelYamlError": "errors",
    "ParityReport": "parity.report",
    "Profile": "cost.result",
    "RegistrationError": "errors",
    "DatasetError": "errors",
    "RowError": "errors",
    "WeightTransfer": "host.weight_matching",
    "ablate": "gates.ablation",
    "attention": "gates.attention",
    "capture_gates": "gates.capture",
    "compare": "study.compare",
    "export": "parity.export",
    "insert": "edit.insert",
    "layer_map": "edit.insert",
    "plot_attention": "gates.attribution_picture",
    "profile": "cost.measure",
    "register": "plugin",
    "register_block": "host.blocks",
    "remove": "edit.insert",
    "verify_export": "parity.verify",
}

__all__ = (*_HOME,)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


def load_ipython_extension(_ipython: object) -> None:
    """Let ``%load_ext ela_yolo`` do in a notebook what ``import ela_yolo`` does: it has imported this module by now."""


_at_import()
