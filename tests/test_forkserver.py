"""Forked children are to tests what fresh interpreters are, and what the workers share is made once."""

import signal
import sys

import pytest
from conftest import forked, forked_python, python, run

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
