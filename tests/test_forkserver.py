"""Forked children are to tests what fresh interpreters are, and what the workers share is made once."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import BIN, OFF, RUN, forked, forked_python, once, python, run, server_for

LOOK = """
import os, sys
import __main__
print(sys.argv, sys.path[0], os.getcwd(), os.environ["SEEN"], __name__, __main__.__name__, "pytest" in sys.modules)
print("told", file=sys.stderr)
"""


def test_a_child_has_what_a_fresh_interpreter_has(tmp_path):
    both = [
        start(sys.executable, "-c", LOOK, "one", "two words", cwd=tmp_path, env={"SEEN": "x"})
        for start in (forked, run)
    ]
    assert both[0].stdout == both[1].stdout and both[0].stderr == both[1].stderr == "told\n"


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('said')", 1, "said"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import os, threading; threading.Thread(target=lambda: os.write(2, b'late')).start()", 0, "late"),
        ("import atexit, sys; atexit.register(print, 'last', file=sys.stderr)", 0, "last"),
        ("print(len(input()))", 1, "EOFError: EOF when reading a line"),
    ],
)
def test_it_ends_as_one(code, status, told, tmp_path):
    for start in (forked_python, python):
        done = start(code, cwd=tmp_path, ok=False)
        assert done.returncode == status and done.stderr.splitlines()[-1:] == [told] * bool(told)


def test_a_variable_that_is_gone_here_is_gone_there(tmp_path, monkeypatch):
    monkeypatch.delenv("ELA_YOLO_TESTS")  # the server has it
    assert forked_python("import os; print('ELA_YOLO_TESTS' in os.environ)", cwd=tmp_path).stdout == "False\n"


def test_nothing_of_a_child_stays(tmp_path):
    forked_python("import ultralytics, os; ultralytics.mine = os.environ['MINE'] = 'x'", cwd=tmp_path)
    forked_python(
        "import ultralytics, os; assert not hasattr(ultralytics, 'mine') and 'MINE' not in os.environ", cwd="."
    )


def test_the_plugin_is_there_unless_it_is_switched_off(tmp_path):
    code = "import sys; from ultralytics.nn import tasks; print('ela_yolo' in sys.modules, hasattr(tasks, 'ELA'))"
    assert forked_python(code, cwd=tmp_path).stdout == "True True\n"
    assert forked_python(code, cwd=tmp_path, env=OFF).stdout == "False False\n"


def test_a_command_is_the_installed_one(tmp_path):
    done = forked(BIN / "ela-yolo", "trian", cwd=tmp_path, ok=False)
    assert done.returncode == 2 and done.stderr == "ela-yolo: 'trian' is not a command, did you mean 'train'?\n"
    with pytest.raises(AssertionError, match="ended with 2"):
        forked(BIN / "ela-yolo", "trian", cwd=tmp_path)


def test_a_child_that_does_not_end_is_ended(tmp_path):
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(999)"
    with pytest.raises(subprocess.TimeoutExpired):
        forked_python(code, cwd=tmp_path, timeout=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert forked_python("print(1)", cwd=tmp_path).stdout == "1\n"


def test_variables_that_are_read_at_the_start_take_a_fresh_interpreter():
    assert server_for({**os.environ, "PYTHONPATH": "x"}) is None
    assert server_for({**os.environ, "ULTRALYTICS_SAFE_LOAD": "1"}) is None
    assert server_for({**os.environ, "ELA_YOLO_MONITOR": "0"}) is server_for(dict(os.environ))


def test_what_is_shared_is_made_once_and_its_failure_is_told_to_all():
    made, name = [], f"shared-{os.getpid()}"
    assert [once(name, lambda folder: made.append(folder) or 7) for _ in range(2)] == [7, 7]
    assert made == [RUN / name] and made[0].is_dir()
    for _ in range(2):
        with pytest.raises(pytest.fail.Exception, match="which all workers share, could not be made:\n") as failed:
            once(f"{name}-fails", lambda folder: made.append(folder) or 1 / 0)
        assert str(failed.value).endswith("ZeroDivisionError: division by zero\n")
    assert len(made) == 2
