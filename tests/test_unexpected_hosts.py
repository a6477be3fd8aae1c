"""Where Ultralytics is not as expected: edited, wrapped by somebody, or with another class named ELA."""

import pytest
from conftest import BIN, OFF, SMALL, forked, forked_python, python

BROKEN_HOSTS = {
    "another parser": ("tasks.parse_model = lambda config: None", "tasks.parse_model(d, ch, verbose) is missing"),
    "no check_file": ("del checks.check_file", "checks.check_file(file) is missing"),
    "no check_yaml": ("del checks.check_yaml", "checks.check_yaml(file) is missing"),
    "check_yaml on its own": ("checks.check_yaml = lambda file, hard=True: file", "check_yaml does not use check_file"),
    "a parser without ch": (
        """
original = tasks.parse_model
def parse_model(d, ch, verbose=True):
    for row in d["backbone"]: row[3] = list(row[3])
    return original(d, ch, verbose)
tasks.parse_model = parse_model""",
        "does not give a row its input channels",
    ),
    "a parser that fails": (
        "def fail(d, ch, verbose): raise RuntimeError('no')\ntasks.parse_model = fail",
        "its parser fails on a probe (RuntimeError('no'))",
    ),
    "no BaseModel": ("del tasks.BaseModel", "tasks.BaseModel.load(self, weights, verbose) is missing"),
    "another loading": (
        "tasks.BaseModel.load = lambda self, file: None",
        "tasks.BaseModel.load(self, weights, verbose) is missing",
    ),
    "a loading that fails": (
        "def fail(self, weights, verbose=True): raise RuntimeError('no')\ntasks.BaseModel.load = fail",
        "its loading of weights fails on a probe (RuntimeError('no'))",
    ),
    "a loading by order": (
        """
def load(self, weights, verbose=True):
    for mine, theirs in zip(self.parameters(), weights.parameters()):
        mine.data.copy_(theirs)
tasks.BaseModel.load = load""",
        "it does not match weights by the names of their layers",
    ),
}


@pytest.mark.parametrize(("breakage", "message"), BROKEN_HOSTS.values(), ids=BROKEN_HOSTS)
def test_an_ultralytics_that_is_not_as_expected_is_refused_and_left_as_it_was(breakage, message, tmp_path):
    """The import of the package neither raises nor prints; what needs the registration raises the reason."""
    code = f"""
import ultralytics
from ultralytics.nn import tasks
from ultralytics.utils import checks
{breakage}
places = (tasks, checks, getattr(tasks, "BaseModel", object))
def look(): return [{{**vars(place), "__slotnames__": None}} for place in places]
state = look()
import ela_yolo
from ela_yolo import ELA  # the block works without Ultralytics
for call in (ela_yolo.register, lambda: ela_yolo.insert("yolov8n.yaml")):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error, ultralytics.__version__ in str(error))
assert look() == state
"""
    done = forked_python(code, cwd=tmp_path, env=OFF)
    printed = done.stdout
    assert printed.count("RegistrationError ") == 2 and not done.stderr
    assert message in printed
    assert printed.endswith("True\n")


def test_where_registration_fails_ultralytics_goes_on_and_standard_error_says_why(tmp_path):
    # An Ultralytics whose parser takes other arguments, as after an edit in site-packages.
    code = """
import importlib.machinery, sys
class Edited:
    def find_spec(self, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if name == "ultralytics.nn.tasks":
            run = spec.loader.exec_module
            def edited(module):
                run(module)
                parse = module.parse_model
                module.parse_model = lambda d, ch, *, verbose: parse(d, ch, verbose)
            spec.loader.exec_module = edited
        return spec
sys.meta_path.insert(1, Edited())
from ultralytics import YOLO
print(len(YOLO("yolov8n.yaml").model.model))
"""
    done = python(code, cwd=tmp_path)
    assert done.stdout.endswith("23\n")
    assert "ela-yolo is off, and ELA rows will not be known: ultralytics" in done.stderr
    assert done.stderr.count("\n") == 1


WRAPPED = """
import functools, importlib
import ela_yolo
from ultralytics.nn import tasks

def wrap(owner, name):
    inner = getattr(owner, name)
    DECORATION
    def outer(*args, **kwargs):
        called.append(name)
        return inner(*args, **kwargs)
    setattr(owner, name, outer)

def build():
    model, plain = (tasks.DetectionModel(name, verbose=False) for name in ("yolov8n-ela.yaml", "yolov8n.yaml"))
    transfer = model.load(plain, verbose=False)
    print([model.model[i].channels for i in (3, 6, 9, 12)], transfer.kept, transfer.total, sorted(set(called)))

called = []
for _ in range(2):
    wrap(tasks, "parse_model"), wrap(tasks.BaseModel, "load")
    ela_yolo.register()
    now = tasks.parse_model, tasks.BaseModel.load
    ela_yolo.register()
    assert now == (tasks.parse_model, tasks.BaseModel.load)
    build()
importlib.reload(tasks)
called.clear()
build()
"""


@pytest.mark.parametrize("decoration", ["", "@functools.wraps(inner)"], ids=["plainly", "with functools.wraps"])
def test_registering_again_changes_nothing_where_somebody_wrapped_the_same_functions(decoration, tmp_path):
    printed = forked_python(WRAPPED.replace("DECORATION", decoration), cwd=tmp_path).stdout.splitlines()
    from ultralytics.nn.tasks import DetectionModel

    every = len(DetectionModel("yolov8n.yaml", verbose=False).state_dict())
    told = f"[32, 64, 128, 256] {every} {every}"
    assert printed[-3:] == [f"{told} ['load', 'parse_model']"] * 2 + [f"{told} []"]


USERS_ELA = """
class ELA(nn.Identity):  # called with the row's args alone, as Ultralytics calls what it does not know
    def __init__(self, size=0):
        super().__init__()
        self.size = size
        self.scale = nn.Parameter(torch.ones(size))
"""


@pytest.mark.parametrize("first", ["the user's class", "the registration"])
def test_a_class_of_the_users_named_ela_is_left_alone(first, tmp_path):
    pytest.importorskip("timm", reason="SE is timm's: pip install timm")
    (tmp_path / "yolov8-small.yaml").write_text(SMALL.replace("{row}", "[-1, 1, ELA, [7]]"))
    (tmp_path / "yolov8-se.yaml").write_text(SMALL.replace("{row}", "[-1, 1, SE, []]"))
    (tmp_path / "yolov8-fails.yaml").write_text(SMALL.replace("{row}", "[-1, 1, ELA, [1, 2]]"))
    code = f"""
import torch
from torch import nn
from ultralytics.nn import tasks
{USERS_ELA if first == "the user's class" else "import ela_yolo"}
{"tasks.ELA = ELA; import ela_yolo" if first == "the user's class" else USERS_ELA + "tasks.ELA = ELA"}
from ela_yolo.host.blocks import is_block
from ultralytics.utils.checks import check_yaml
ela_yolo.register()
assert tasks.ELA is ELA
model = tasks.DetectionModel("yolov8n-small.yaml", verbose=False)
print(type(model.model[2]) is ELA, model.model[2].size, is_block(model.model[2]), model.load(model, verbose=False))
se = tasks.DetectionModel("yolov8n-se.yaml", verbose=False)
print(is_block(se.model[2]), se.load(se, verbose=False).complete, len(check_yaml("yolov8-ela.yaml")) > 0)
try: ela_yolo.insert("yolov8n.yaml", after=4)
except ela_yolo.InputError as error: print(error)
tasks.DetectionModel("yolov8n-fails.yaml", verbose=False)
"""
    done = forked_python(code, cwd=tmp_path, env=OFF, ok=False)
    *printed, hint = done.stdout.splitlines()
    assert printed[-3:] == [
        "True 7 False None",
        "True True True",
        "Ultralytics already has a module ELA, so rows cannot use this name for ela_yolo.ela:ELA",
    ]
    assert hint.endswith(
        "ela-yolo: ELA is <class '__main__.ELA'> here, so its rows build that class; reinstall Ultralytics to build "
        "ela-yolo's"
    )
    assert "TypeError" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("CoordAtt", "ela-yolo: layer 2: CoordAtt is unknown: CA is a separate row, [-1, 1, CA, []]"),
        ("C2f_ELA", "ela-yolo: layer 2: C2f_ELA is unknown: ELA is a separate row, [-1, 1, ELA, []]"),
        ("Gone", None),
    ],
)
def test_a_module_that_the_parser_does_not_know_stays_a_key_error_with_a_hint(module, hint, tmp_path):
    (tmp_path / "yolov8n-small.yaml").write_text(SMALL.replace("{row}", f"[-1, 1, {module}, []]"))
    done = forked(BIN / "yolo", "train", "model=yolov8n-small.yaml", "data=scenes.yaml", cwd=tmp_path, ok=False)
    assert done.stderr.splitlines()[-1] == f"KeyError: '{module}'"
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ela-yolo: " in line]
    assert [bool(hint) and hint in line for line in said] == ([True] if hint else [])
