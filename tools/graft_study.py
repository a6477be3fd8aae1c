"""Does a graft lose anything, and which gate form is best for it? Measured by fine-tuning on photographs.

``python tools/graft_study.py`` fine-tunes a trained detector five ways with the host's own defaults: as it is, with ELA
put in and the host's own loading of weights (naive), and as a graft in each gate form. First it checks that the raw
outputs of the identity graft are the host's bit for bit, at the end that a fine-tuned host and its graft have the same
mAP. It prints the README's table, and writes it to ``out`` with a picture of the curves. Runs that are finished there
are not run again.

Keys, as key=value: model, data, imgsz, epochs, seeds (such as 0,1,2), batch, out.
"""

import csv
import statistics
import sys
from pathlib import Path

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO))

DEFAULTS = {
    "model": str(REPO.parent / "shared/weights/yolov8n.pt"),
    "data": str(REPO.parent / "shared/data/bccd/bccd.yaml"),
    "imgsz": "256",
    "epochs": "8",
    "seeds": "0",
    "batch": "16",
    "out": "graft-study",
}
ARMS = {
    "plain": "plain host",
    "identity": "graft, identity form",
    "residual": "graft, residual form",
    "paper": "graft, paper's form",
    "naive": "ELA put in by hand (the host's own loading)",
}


def check_step_0(model, photos, folder):
    """Exit unless host and identity graft give the same raw outputs, bit for bit, in float32."""
    import torch
    from ultralytics import YOLO
    from ultralytics.data.augment import LetterBox

    from ela_yolo import insert

    insert(model, save=folder / "step-0.pt", exist_ok=True)
    host, graft = (YOLO(file).model.eval() for file in (model, folder / "step-0.pt"))
    for photo in photos:
        pixels = torch.from_numpy(LetterBox((640, 640))(image=photo).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            if not torch.equal(host(pixels)[0], graft(pixels)[0]):
                sys.exit("step 0: the identity graft does not detect what its host detects")
    print(f"step 0: raw outputs of host and identity graft are the same bit for bit on {len(photos)} photographs")


def load_photos(data):
    """Return both photographs of the host's package and 20 of the validation images."""
    import cv2
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import ASSETS

    val = Path(check_det_dataset(data)["val"])
    return [cv2.imread(str(file)) for file in [*sorted(ASSETS.glob("*.jpg")), *sorted(val.glob("*"))[:20]]]


def check_map(keys, seed, folder):
    """Exit unless a host that was fine-tuned and its identity graft have the same mAP, to the last digit."""
    from ultralytics import YOLO

    from ela_yolo import insert

    files = folder / f"plain-{seed}/weights/best.pt", folder / "trained.pt"
    insert(files[0], save=files[1], exist_ok=True)
    settings = {
        "data": keys["data"],
        "imgsz": int(keys["imgsz"]),
        "plots": False,
        "project": str(folder),
        "name": "val",
    }
    host, graft = (YOLO(file).val(**settings, exist_ok=True).box for file in files)
    if (host.map, host.map50, *host.maps) != (graft.map, graft.map50, *graft.maps):
        sys.exit("the identity graft of a fine-tuned host has another mAP")
    print(f"after fine-tuning: mAP50-95 of host and identity graft are the same, {float(host.map)}")


def make_checkpoint(arm, model, folder):
    """Return the checkpoint that an arm starts from."""
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.tasks import BaseModel

    from ela_yolo import insert

    if arm == "plain":
        return model
    file = folder / f"start-{arm}.pt"
    if arm == "naive":
        naive = YOLO(model)
        host = naive.model
        naive.model = type(host)(yaml.safe_load(insert(model, gate="paper").text), verbose=False)
        BaseModel.load.__wrapped__(naive.model, host)  # the host's own, without ela-yolo
        naive.model.names = host.names
        naive.save(file)
    else:
        insert(model, gate=arm, save=file, exist_ok=True)
    return file


def train(arm, seed, keys, folder):
    """Return the mAP50-95 after each epoch of one run."""
    from ultralytics import YOLO

    name = f"{arm}-{seed}"
    results = folder / name / "results.csv"
    if not (results.exists() and len(read_map(results)) == int(keys["epochs"])):
        YOLO(make_checkpoint(arm, keys["model"], folder)).train(
            data=keys["data"],
            imgsz=int(keys["imgsz"]),
            epochs=int(keys["epochs"]),
            batch=int(keys["batch"]),
            seed=seed,
            project=str(folder),
            name=name,
            exist_ok=True,
            plots=False,
        )
    return read_map(results)


def read_map(results):
    """Return the column mAP50-95 of a run's results.csv."""
    with open(results, encoding="utf-8") as file:
        return [float(row["metrics/mAP50-95(B)"]) for row in csv.DictReader(file)]


def table(curves, epochs):
    """Return the mean mAP50-95 after some epochs, and the last one of each seed, as Markdown."""
    shown = [epoch for epoch in (1, 2, 4, 8, 16, 32, 64) if epoch < epochs] + [epochs]
    seeds = list(next(iter(curves.values())))
    head = [f"after epoch {epoch}" for epoch in shown] + [f"seeds {', '.join(seeds)} after epoch {epochs}"]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for arm, runs in curves.items():
        means = [f"{statistics.mean(run[epoch - 1] for run in runs.values()):.3f}" for epoch in shown]
        lines.append(f"| {ARMS[arm]} | " + " | ".join([*means, " ".join(f"{r[-1]:.3f}" for r in runs.values())]) + " |")
    return "\n".join(lines)


def draw(curves, epochs, file):
    """Draw the mean curve of each arm with the range over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    steps = range(1, epochs + 1)
    for arm, runs in curves.items():
        by_epoch = list(zip(*runs.values(), strict=True))
        (line,) = axes.plot(steps, [statistics.mean(values) for values in by_epoch], marker="o", ms=3, label=ARMS[arm])
        axes.fill_between(steps, list(map(min, by_epoch)), list(map(max, by_epoch)), color=line.get_color(), alpha=0.15)
    axes.set(xlabel="epoch of fine-tuning", ylabel="mAP50-95", ylim=(0, None), xticks=list(steps))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file)


def main(args):
    """Run the study; exit 2 for a wrong key, 1 for data or weights that are not there."""
    from ela_yolo.util.json import write_json

    keys = {**DEFAULTS, **dict(arg.partition("=")[::2] for arg in args)}
    if unknown := keys.keys() - DEFAULTS.keys():
        print(f"graft_study: unknown key '{min(unknown)}'; there are {', '.join(DEFAULTS)}", file=sys.stderr)
        return 2
    for key in ("model", "data"):
        if not Path(keys[key]).is_file():
            print(f"graft_study: there is no {keys[key]}; name another with {key}=", file=sys.stderr)
            return 1
    folder = Path(keys["out"]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    check_step_0(keys["model"], load_photos(keys["data"]), folder)
    seeds = keys["seeds"].split(",")
    # Seed by seed, so that what is there after an interruption compares the arms.
    runs = {(arm, seed): train(arm, int(seed), keys, folder) for seed in seeds for arm in ARMS}
    check_map(keys, seeds[0], folder)
    curves = {arm: {seed: runs[arm, seed] for seed in seeds} for arm in ARMS}
    epochs = int(keys["epochs"])
    text = table(curves, epochs)
    write_json(folder / "study.json", {"keys": keys, "mAP50-95": curves})
    (folder / "study.md").write_text(text + "\n", encoding="utf-8")
    draw(curves, epochs, folder / "study.png")
    print(f"{text}\nwritten to {folder}: study.md, study.png, study.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
