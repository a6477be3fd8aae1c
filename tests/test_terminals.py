"""Results in any terminal, into a closed pipe, and beside files in a folder that may not be written to."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import BIN, run

MODEL = """\
nc: 2
scales:
  n: [0.33, 0.25, 1024]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]  # 0 输入
  - [-1, 3, C2f, [128, True]]  # 1 第一阶段 🚀
head:
  - [-1, 1, SPPF, [256, 5]]  # 2 颈部
  - [[2], 1, Detect, [nc]]  # 3 检测头
"""
COMMAND = (sys.executable, "-m", "ela_yolo")


@pytest.mark.parametrize(
    "encoding", ["gbk", "ascii", *(pytest.param(each, marks=pytest.mark.nightly) for each in ("latin-1", "utf-8"))]
)
def test_a_diff_is_shown_in_any_encoding(encoding, tmp_path):
    (tmp_path / "mine.yaml").write_text(MODEL, encoding="utf-8")
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [*COMMAND, "insert", "model=mine.yaml", "save=new.yaml"], cwd=tmp_path, env=env, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert "+  - [-1, 1, ELA, [{gate: identity, lr_mult: 100}]]" in shown and "written to new.yaml" in shown
    assert ("🚀" in shown, "第一阶段" in shown) == (encoding == "utf-8", encoding in ("utf-8", "gbk"))
    assert "第一阶段 🚀" in (tmp_path / "new.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [("insert", "model=mine.yaml", "save=new.yaml"), ("--help",), pytest.param(("doctor",), marks=pytest.mark.nightly)],
)
def test_a_closed_pipe_is_silent(arguments, tmp_path):
    (tmp_path / "mine.yaml").write_text(MODEL, encoding="utf-8")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "new.yaml").exists() == ("insert" in arguments)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_for_the_output_is_not_a_failure_of_the_work(tmp_path):
    (tmp_path / "mine.yaml").write_text(MODEL, encoding="utf-8")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "insert", "model=mine.yaml", "save=new.yaml"], cwd=tmp_path, stdout=full)
    assert done.returncode == 0 and (tmp_path / "new.yaml").exists()


@pytest.fixture
def may_not_write():
    """The beginning of a command that runs it without the power of root over permissions."""
    if os.name == "nt":
        pytest.skip("folders have no such permissions on Windows")
    if os.geteuid():
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("root may write anywhere, and there is no setpriv")
    capabilities = "-dac_override,-dac_read_search"
    return ("setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}")


def test_results_beside_files_in_a_read_only_folder_stay_on_the_screen(may_not_write, exported, tmp_path):
    weights, file, _ = exported
    (tmp_path / "models").mkdir()
    for each in (weights, file):
        shutil.copy(each, tmp_path / "models")
    (tmp_path / "models").chmod(0o555)
    against = f"against=models/{os.path.basename(file)}"
    verify = (*may_not_write, BIN / "ela-yolo", "verify", f"model=models/{os.path.basename(weights)}", against)
    done = run(*verify, cwd=tmp_path)
    assert "the file matches within the float32 tolerance" in done.stdout
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("ela-yolo: "))
    assert line.endswith(
        ".parity.json cannot be written: Permission denied; the result is above; save= names another place"
    )
    done = run(*verify, "save=report.json", cwd=tmp_path)
    assert (tmp_path / "report.json").is_file() and "written to report.json" in done.stdout
    done = run(*verify, "save=models/report.json", cwd=tmp_path, ok=False)
    assert done.returncode == 1 and "the file matches" in done.stdout and "cannot be written" in done.stderr
    done = run(
        *(*may_not_write, BIN / "ela-yolo", "attention", f"model={os.path.basename(weights)}", f"source={tmp_path}"),
        cwd=tmp_path / "models",
        ok=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (tmp_path / "models").chmod(0o755)
