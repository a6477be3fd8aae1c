"""Measures the cost of ELA in ONNX Runtime: the nodes of the block, their times, and the ratio to the plain model.

``python tools/onnx_profile.py [model=yolov8n-ela.yaml] [imgsz=640] [threads=2]`` prints three Markdown tables. Three
files are compared: the plain model, ELA as written (for free axes and float16), and ELA in its form for a fixed size.
Whole runs alternate in one process, each after a run that is not timed.
"""

import collections
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import onnx
import onnxruntime

from ela_yolo.cost.timing import alternate
from ela_yolo.util.tables import markdown_table

OPSETS = (12, 13, 17, 18, 20, 21)
ROUNDS, RUNS = 100, 30
REST = 0.02  # s


def export(model: str | Path, target: Path, side: int, as_written: bool = False, **keys: Any) -> Path:
    """Export by Ultralytics to a file of this name."""
    from ela_yolo.host.lookup import open_model

    loaded = open_model(model)
    loaded.ckpt_path = loaded.model.pt_path = str(target.with_suffix(".pt"))
    if as_written:
        loaded.add_callback("on_export_start", keep_as_written)
    return Path(loaded.export(format="onnx", imgsz=side, **keys))


def keep_as_written(exporter: Any) -> None:
    """Give the ELA blocks of an export their plain form."""
    from ela_yolo.host.model_blocks import named_blocks

    for block in named_blocks(exporter.model).values():
        block.export_form = None


def block_nodes(file: Path) -> collections.Counter[str]:
    """Return the operators of the first ELA block in the file: name -> number."""
    graph = onnx.load(file)
    told = {entry.key: entry.value for entry in graph.metadata_props}["ela"]
    layer = json.loads(told)["blocks"][0]["layer"]
    return collections.Counter(node.op_type for node in graph.graph.node if f"/model.{layer}/" in node.name)


def session(file: Path, threads: int, profile: Path | None = None) -> Any:
    """Open a file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def profile(
    file: Path, image: Any, threads: int, folder: Path
) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Return the time of each kind of operator, in us a run (sum of its nodes' medians), and the number of nodes."""
    opened = session(file, threads, folder / "profile")
    for _ in range(RUNS):
        opened.run(None, {"images": image})
    durations = collections.defaultdict(list)
    for event in json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["args"]["op_name"], event["name"]].append(event["dur"])
    cost: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    for (kind, _), times in durations.items():
        cost[kind] += statistics.median(times)
        count[kind] += 1
    return cost, count


def main(arguments: Sequence[str]) -> None:
    """Print the tables."""
    given = dict(argument.split("=", 1) for argument in arguments)
    model, side = given.get("model", "yolov8n-ela.yaml"), int(given.get("imgsz", 640))
    threads = int(given.get("threads", os.cpu_count() or 1))
    os.environ["YOLO_VERBOSE"] = "false"
    import ela_yolo
    from ela_yolo.host.lookup import find_model

    ela_yolo.register()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = folder / f"plain-{Path(model).name}"
        ela_yolo.remove(find_model(model), save=plain)

        forms: dict[str, dict[str, Any]] = {f"opset {opset}": {"opset": opset} for opset in OPSETS}
        forms["dynamic=True"] = {"dynamic": True}
        nodes = {form: block_nodes(export(model, folder / "nodes", 64, **keys)) for form, keys in forms.items()}
        kinds = dict.fromkeys(kind for counted in nodes.values() for kind in counted)
        rows = [
            [form, *(str(counted[kind] or "") for kind in kinds), str(counted.total())]
            for form, counted in nodes.items()
        ]
        print(markdown_table(["one block", *kinds, "all"], rows))

        files = {
            "plain": export(plain, folder / "plain", side),
            "as written": export(model, folder / "written", side, as_written=True),
            "fixed size": export(model, folder / "fixed", side),
        }
        image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
        profiles = {form: profile(file, image, threads, folder) for form, file in files.items()}
        changed = [
            kind
            for kind in {kind for _, count in profiles.values() for kind in count}
            if len({count[kind] for _, count in profiles.values()}) > 1
        ]
        rows = [
            [kind, *(f"{cost[kind]:.0f} ({count[kind]})" if count[kind] else "" for cost, count in profiles.values())]
            for kind in sorted(changed, key=lambda kind: -profiles["as written"][0][kind])
        ]
        without = [sum(cost[kind] for kind in changed if kind != "Conv") for cost, _ in profiles.values()]
        rows.append(["all of these but Conv", *(f"{cost:.0f}" for cost in without)])
        print(f"\n{markdown_table(['operator, us a run (nodes)', *files], rows)}")

        opened = {form: session(file, threads) for form, file in files.items()}
        calls = {form: partial(each.run, None, {"images": image}) for form, each in opened.items()}
        seconds = {form: np.array(times) for form, times in alternate(calls, ROUNDS, REST).items()}
        rows = []
        for form, times in seconds.items():
            median = np.median(times / seconds["plain"])
            fastest = np.quantile(times, 0.1) / np.quantile(seconds["plain"], 0.1)
            rows.append([form, f"{1000 * np.median(times):.1f}", f"{median:.3f}", f"{fastest:.3f}"])
        print(f"\n{markdown_table(['whole model', 'median ms', 'ratio, median', 'of the fastest tenths'], rows)}")
    print(f"\n{model} at {side} px, {threads} threads, onnxruntime {onnxruntime.__version__}, {ROUNDS} rounds")


if __name__ == "__main__":
    main(sys.argv[1:])
