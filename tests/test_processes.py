"""ELA in processes that nobody prepared: workers, trials, resumed runs, other folders, and no plugin at all."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import ultralytics
from conftest import BIN, FEW, HOME, OFF, REPO, environment, forked, forked_python, python, run
from helpers import narrow
from ultralytics.utils.checks import check_version

SLICE = f"data={str(FEW)!r}, fraction=0.05, imgsz=64, batch=4, nbs=4, workers=0, plots=False"
SCENES = HOME / "datasets/ela-yolo-scenes/images/val"


@pytest.fixture(autouse=True)
def own_yaml(tmp_path):
    """A YAML of the user's own, which is found without the plugin too; its gates learn at a rate of their own."""
    text = (REPO / "cfg/yolov8-ela.yaml").read_text()
    assert "[{gate: identity, lr_mult: 100}]" in text
    (tmp_path / "yolov8-mine.yaml").write_text(narrow(text, 0.125).replace("gate: identity, ", ""))


def blocks(file):
    checkpoint = torch.load(file, weights_only=False)
    return sum(type(m).__name__ == "ELA" for m in (checkpoint["ema"] or checkpoint["model"]).modules())


def test_tune(tmp_path):
    """Iterations run in this process or, in older releases of Ultralytics, in children of their own."""
    if check_version(ultralytics.__version__, ">=8.3.251,<8.4.2"):
        pytest.skip("the tuner of this Ultralytics trains no model: its own command refuses the save_dir that it names")
    code = f"""
from ultralytics import YOLO
YOLO("yolov8n-mine.yaml").tune(iterations=2, epochs=1, {SLICE}, project={str(tmp_path)!r}, name="tune")
"""
    forked_python(code, cwd=tmp_path)
    trials, former = (tmp_path / "tune" / name for name in ("tune_results.ndjson", "tune_results.csv"))
    counted = trials.read_text() if trials.exists() else former.read_text().partition("\n")[2]  # before 8.4.37
    assert len(counted.splitlines()) == 2
    assert blocks(tmp_path / "tune/weights/best.pt") == 4
    switched_off = run(sys.executable, "-c", code, cwd=tmp_path, env=OFF, ok=False)
    assert "KeyError: 'ELA'" in switched_off.stderr


GENERATE = f"""
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.dist import generate_ddp_file
trainer = DetectionTrainer(overrides=dict(model="yolov8n-mine.yaml", epochs=1, {SLICE}, name="run", project=PROJECT))
print(generate_ddp_file(trainer))
"""


def test_the_worker_file_of_ddp_trains_in_a_fresh_interpreter(tmp_path):
    """Ultralytics names CPU runs one process, so a single worker runs the file to its end.

    Without the autoload it would too: among the callbacks in the file is the one that prepares exports.
    """
    made = forked_python(GENERATE.replace("PROJECT", repr(str(tmp_path))), cwd=tmp_path)
    file = Path(made.stdout.splitlines()[-1])
    run(sys.executable, file, cwd=tmp_path)
    assert blocks(tmp_path / "run/weights/last.pt") == 4


# For several processes Ultralytics fixes CUDA: in the group that it makes, in what it hands to DistributedDataParallel
# and in the validation of the finished weights, before which the run on CPU ends.
ON_CPU = f"""
import functools, os, sys
sys.path.insert(0, {str(REPO / "examples")!r})
import torch
from torch import distributed, nn
from several_machines import SeveralMachinesTrainer

class OnCPU(SeveralMachinesTrainer):
    def _setup_ddp(self):
        distributed.init_process_group("gloo")
        whole = nn.parallel.DistributedDataParallel
        nn.parallel.DistributedDataParallel = lambda model, device_ids, **keys: whole(model, **keys)

    def final_eval(self):
        distributed.barrier()

def compare(trainer):
    gates = torch.cat([p.detach().flatten() for n, p in trainer.model.named_parameters() if ".gn." in n])
    both = [torch.empty_like(gates) for _ in range(2)]
    distributed.all_gather(both, gates)
    fresh = torch.arange(len(gates)) >= len(gates) // 2  # the biases, zero, and the weights, one
    learned = not torch.equal(gates.sort()[0], fresh.float())
    with open(f"rank{{distributed.get_rank()}}.txt", "w") as file:  # their standard outputs run into each other
        file.write(f"{{torch.equal(*both)}}, {{learned}}")

if __name__ == "__main__":
    trainer = OnCPU(overrides=dict(model="yolov8n-mine.yaml", device="cpu", epochs=1, {SLICE}, **eval(sys.argv[1])))
    trainer.add_callback("on_train_epoch_end", compare)
    trainer.train()
"""


def torchrun(nodes, script, folder, **env):
    """Run a script by two processes, on one machine or as if on two; return what they printed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = [sys.executable, "-m", "torch.distributed.run", "--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{port}"]
    command = [*common, f"--nnodes={nodes}", f"--nproc_per_node={2 // nodes}", script]
    command.append(repr({"project": str(folder), "name": "run"}))
    machines = [
        subprocess.Popen(command, cwd=folder, env={**os.environ, **env}, text=True, stdout=-1, stderr=subprocess.STDOUT)
        for _ in range(nodes)
    ]
    printed = "".join(machine.communicate(timeout=300)[0] for machine in machines)
    return printed, [machine.returncode for machine in machines]


@pytest.mark.parametrize("machines", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_two_processes_train_one_model(machines, tmp_path):
    script = tmp_path / "on_cpu.py"
    script.write_text(ON_CPU)
    printed, statuses = torchrun(machines, script, tmp_path)
    assert statuses == [0] * machines, printed
    assert {file.name: file.read_text() for file in tmp_path.glob("rank*.txt")} == {
        "rank0.txt": "True, True",
        "rank1.txt": "True, True",
    }
    assert blocks(tmp_path / "run/weights/last.pt") == 4


RAY = f"""
from ultralytics import YOLO
results = YOLO("yolov8n-ela.yaml").tune(  # found by name in a worker, whose folder is another
    use_ray=True, search_alg="random", iterations=2, epochs=1, {SLICE}, project=PROJECT, name="tune"
)
print(len(results), results.num_errors)
"""


@pytest.mark.nightly  # another test trains in processes of Ray
@pytest.mark.usefixtures("raytune")
def test_tune_with_ray(tmp_path):
    done = python(RAY.replace("PROJECT", repr(str(tmp_path))), cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "2 0"
    weights = [*tmp_path.rglob("last.pt"), *(HOME / "runs").rglob("tune_*/weights/last.pt")]
    assert [blocks(file) for file in weights] == [4, 4]


KILLED = f"""
import os, signal
from ultralytics import YOLO
batches = []
def die(trainer):
    batches.append(trainer.epoch)
    if batches.count(1) == 2:  # in the middle of the second epoch
        os.kill(os.getpid(), signal.SIGKILL)
model = YOLO("yolov8n-mine.yaml")
model.add_callback("on_train_batch_end", die)
model.train(epochs=3, {SLICE}, project=PROJECT, name="run")
"""
RESUMED = """
import torch
from ultralytics import YOLO
saved = torch.load(LAST, weights_only=False)

def compare(trainer):
    names = [name for name, _ in trainer.model.named_parameters()]
    ema = saved["ema"].float().state_dict()
    for name, tensor in trainer.ema.ema.state_dict().items():
        assert torch.equal(tensor, ema[name]), name
    moments = [trainer.optimizer.state[p] for n, p in trainer.model.named_parameters() if ".gn." in n]
    assert len(moments) == 8 and all(state for state in moments)
    assert len(trainer.optimizer.param_groups[-1]["params"]) == 8
    assert trainer.start_epoch == 1 and trainer.ema.updates == saved["updates"]
    print("continues")

model = YOLO(LAST)
model.add_callback("on_train_start", compare)
model.train(resume=True)
"""


def test_a_killed_training_resumes(tmp_path):
    killed = forked_python(KILLED.replace("PROJECT", repr(str(tmp_path))), cwd=tmp_path, ok=False)
    assert killed.returncode == -signal.SIGKILL
    last = tmp_path / "run/weights/last.pt"
    resumed = RESUMED.replace("LAST", repr(str(last)))
    assert "continues" in python(resumed, cwd=tmp_path).stdout.splitlines()
    with (tmp_path / "run/results.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file, skipinitialspace=True)] == ["1", "2", "3"]
    assert blocks(last) == 4
    forked(BIN / "yolo", "predict", f"model={last}", f"source={SCENES}/0000.jpg", f"project={tmp_path}", cwd=tmp_path)


def test_safe_loading(trained, tmp_path):
    """Predicting, and training on, which builds the model from its YAML."""
    safe = {"ULTRALYTICS_SAFE_LOAD": "1"}
    best = f"model={trained}/weights/best.pt"
    off = run(BIN / "yolo", "predict", best, f"source={SCENES}/0000.jpg", cwd=tmp_path, env={**safe, **OFF}, ok=False)
    assert off.returncode == 1 and "references types outside the supported" in off.stderr  # so it is in force
    run(BIN / "yolo", "predict", best, f"source={SCENES}/0000.jpg", f"project={tmp_path}", cwd=tmp_path, env=safe)
    keys = [f"data={FEW}", "fraction=0.05", "imgsz=64", "epochs=1", "plots=False", "val=False"]
    run(BIN / "yolo", "train", best, *keys, f"project={tmp_path}", "name=run", cwd=tmp_path, env=safe)
    assert blocks(tmp_path / "run/weights/last.pt") == 4


WORKERS = """
import sys
from torch.utils.data import DataLoader, Dataset

class Widths(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        from ultralytics import YOLO
        return YOLO("yolov8n-mine.yaml").model.model[3 + 3 * index].channels

if __name__ == "__main__":
    import ela_yolo
    ela_yolo.register()
    print([int(width) for width in DataLoader(Widths(), num_workers=1, multiprocessing_context=sys.argv[1])])
"""


@pytest.mark.parametrize(
    ("method", "without_autoload"), [pytest.param("fork", True, marks=pytest.mark.nightly), ("spawn", False)]
)
def test_dataloader_workers_know_ela(method, without_autoload, tmp_path):
    """What is forked has what its parent has; what is spawned is a fresh interpreter."""
    (tmp_path / "widths.py").write_text(WORKERS)
    assert run(sys.executable, "widths.py", method, cwd=tmp_path).stdout.endswith("[16, 32]\n")
    switched_off = run(sys.executable, "widths.py", method, cwd=tmp_path, env=OFF, ok=False)
    assert (switched_off.returncode == 0) is without_autoload
    assert without_autoload or "KeyError: 'ELA'" in switched_off.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_training_with_dataloader_workers(method, tmp_path):
    """On a CPU Ultralytics takes none, unless a callback asks for them."""
    code = f"""
import torch
from ultralytics import YOLO

def one(trainer):
    trainer.args.workers = 1

def count(trainer):
    print("workers", trainer.train_loader.num_workers, torch.multiprocessing.get_start_method())

if __name__ == "__main__":
    torch.multiprocessing.set_start_method({method!r})
    model = YOLO("yolov8n-mine.yaml")
    model.add_callback("on_pretrain_routine_start", one)
    model.add_callback("on_train_start", count)
    model.train(epochs=1, {SLICE}, val=False, project={str(tmp_path)!r}, name="run")
"""
    (tmp_path / "train.py").write_text(code)
    assert f"workers 1 {method}" in run(sys.executable, "train.py", cwd=tmp_path).stdout
    assert blocks(tmp_path / "run/weights/last.pt") == 4


def test_threads(tmp_path):
    """Both import Ultralytics at once, and build models at once."""
    code = """
import threading
barrier, built = threading.Barrier(2), []

def build(name):
    barrier.wait()
    from ultralytics import YOLO
    for _ in range(3):
        barrier.wait()
        built.append((name, sum(type(m).__name__ == "ELA" for m in YOLO(name).model.modules())))

threads = [threading.Thread(target=build, args=(name,)) for name in ("yolov8n-mine.yaml", "yolov8n.yaml")]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(built))
"""
    expected = [("yolov8n-mine.yaml", 4)] * 3 + [("yolov8n.yaml", 0)] * 3
    assert python(code, cwd=tmp_path).stdout == f"{expected}\n"


def test_a_checkpoint_of_a_script_loads_elsewhere(tmp_path):
    """In another folder, for another user, when the script is gone."""
    here, there, home = tmp_path / "here", tmp_path / "there", tmp_path / "home"
    for folder in (here, there, home / "config"):
        folder.mkdir(parents=True)
    shutil.copy(tmp_path / "yolov8-mine.yaml", here)
    (here / "script.py").write_text(
        "from ultralytics import YOLO\n"
        f"YOLO('yolov8n-mine.yaml').train(epochs=1, {SLICE}, val=False, project={str(here)!r}, name='run')\n"
    )
    run(sys.executable, "script.py", cwd=here)
    shutil.move(here / "run/weights/last.pt", there / "mine.pt")
    shutil.rmtree(here)
    env = {"HOME": str(home), "USER": "another", "YOLO_CONFIG_DIR": str(home / "config")}
    command = ["predict", "model=mine.pt", f"source={SCENES}/0000.jpg", f"project={there}"]
    run(BIN / "yolo", *command, cwd=there, env=env)
    keys = [f"data={FEW}", "fraction=0.05", "imgsz=64", "epochs=1", "plots=False", "val=False"]
    forked(BIN / "yolo", "train", "model=mine.pt", *keys, f"project={there}", "name=on", cwd=there)
    assert blocks(there / "on/weights/last.pt") == 4


def test_without_the_plugin_a_checkpoint_fails_and_its_export_works(retrained, tmp_path):
    """An environment that has Ultralytics and no ela-yolo."""
    environment(tmp_path)
    shutil.copy(retrained / "weights/best.pt", tmp_path)
    forked(BIN / "yolo", "export", "model=best.pt", "format=onnx", "imgsz=96", cwd=tmp_path)
    forked(BIN / "yolo", "export", "model=best.pt", "format=torchscript", "imgsz=96", cwd=tmp_path)
    predict = f"""
import sys
from ultralytics import YOLO
result, = YOLO(sys.argv[1], task="detect")({str(SCENES / "0000.jpg")!r}, imgsz=96)
print([*result.names.values()], len(result.boxes))
"""
    elsewhere = tmp_path / "env" / BIN.name / "python"
    failed = run(elsewhere, "-c", predict, "best.pt", cwd=tmp_path, ok=False)
    assert "No module named 'ela_yolo'" in failed.stderr + failed.stdout
    found = {
        run(elsewhere, "-c", predict, name, cwd=tmp_path).stdout.splitlines()[-1]
        for name in ("best.onnx", "best.torchscript")
    }
    here = forked(sys.executable, "-c", predict, "best.pt", cwd=tmp_path).stdout.splitlines()[-1]
    assert found == {here}
