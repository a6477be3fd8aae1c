"""Processes that begin where Ultralytics is imported already: children of a process that imported it once.

To import torch and Ultralytics takes seconds, which a test pays for nothing where it is not about that. A child has a
folder, an environment, arguments, outputs and an exit status of its own, and ends as an interpreter ends, but for the
freeing of what it inherited. The server computes no tensor, so that it has no threads, which a fork would lose.
"""

import atexit
import gc
import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

PATIENCE = 300  # s, until the server has imported what it imports


class Server:
    """It runs one command at a time, and ends with the process that started it."""

    def __init__(self, folder, env):
        self.folder = Path(tempfile.mkdtemp(prefix="server-", dir=folder))
        with (self.folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                cwd=self.folder,
                env={**env, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )

    def run(self, code, arguments, *, path, cwd, env, timeout):
        """Run code as the main module of a child; `arguments` are its sys.argv, and `path` is first in its sys.path."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            outputs = [f"{folder}/{name}" for name in ("stdout", "stderr")]
            request = {"code": code, "arguments": arguments, "path": path, "cwd": str(cwd), "env": env}
            self.process.stdin.write(json.dumps({**request, "outputs": outputs}).encode() + b"\n")
            pid = self.reply(PATIENCE)
            status = self.reply(timeout)
            if status is None:
                os.kill(pid, 9)
                self.reply(PATIENCE)
            told = [Path(file).read_text(encoding="utf-8") for file in outputs]
        if status is None:
            raise subprocess.TimeoutExpired(arguments, timeout, *told)
        return subprocess.CompletedProcess(arguments, status, *told)

    def reply(self, timeout):
        """The number that the server writes next; None if it does not in this time."""
        if not select.select([self.process.stdout.fileno()], [], [], timeout)[0]:
            return None
        line = self.process.stdout.readline()
        assert line, f"the server of processes is gone: {(self.folder / 'log.txt').read_text()}"
        return int(line)


def serve():
    """Return the next command, in a child that is to become it; the server itself ends with its standard input."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is said at an import is no reply
    import_what_most_need()
    sys.stdout.flush()
    gc.freeze()  # what is there is there for good: no child need look through it
    for line in requests:
        pid = os.fork()
        if not pid:
            requests.close()
            replies.close()
            return json.loads(line)
        print(pid, file=replies, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=replies, flush=True)
    sys.exit()


def import_what_most_need():
    """What `yolo train`, `val`, `predict` and `export` import, most of it as they run; nothing that starts threads."""
    import ultralytics
    import ultralytics.cfg

    _ = ultralytics.YOLO  # which is imported when it is asked for
    for name in ("matplotlib.pyplot", "scipy.optimize", "torchvision.ops"):
        importlib.import_module(name)
    if os.environ.get("ELA_YOLO_AUTOLOAD") != "0":
        importlib.import_module("ela_yolo.cli.main")


def become(request):
    """Run the command and end: from here on this process is like an interpreter that was started for it."""
    files = [(os.devnull, os.O_RDONLY), *((file, os.O_WRONLY | os.O_CREAT) for file in request["outputs"])]
    for place, (file, flags) in enumerate(files):
        opened = os.open(file, flags)
        os.dup2(opened, place)
        os.close(opened)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[:] = request["arguments"]  # Ultralytics keeps the list itself
    sys.path[0] = request["path"]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    status = 0
    try:
        exec(compile(request["code"], "<string>", "exec"), main.__dict__)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        status = 1
        sys.excepthook(*sys.exc_info())
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # torch takes a second to take itself to pieces


if __name__ == "__main__":
    become(serve())
