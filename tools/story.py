"""Follows the README in an empty folder: insert, train for one short epoch, validate, look and export.

::

    python tools/story.py          # by the ela-yolo of this Python

It needs no network, and ends with a line if all went well.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = 900  # s, of each command
TRAIN = "data=scenes.yaml imgsz=64 epochs=1 fraction=0.1 batch=4 nbs=4 workers=0 plots=False"


def main() -> None:
    """Run the commands."""
    scripts = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        own = {"YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        env = {**os.environ, **own, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}

        def call(line: str) -> None:
            name, *keys = line.split()
            program = shutil.which(name, path=str(scripts)) or name
            print(f"$ {line}", flush=True)
            subprocess.run([program, *keys], cwd=folder, env=env, check=True, timeout=LIMIT)

        run = Path("runs/story/weights/best.pt")
        call("ela-yolo doctor")
        call(f"yolo settings datasets_dir={folder}/datasets")
        call("ela-yolo insert model=yolov8n.yaml after=P3,P4,P5 save=yolov8-mine.yaml")
        call(f"yolo train model=yolov8n-mine.yaml {TRAIN} project={folder}/runs name=story")
        call(f"yolo val model={run} data=scenes.yaml imgsz=64 workers=0 plots=False")
        call(f"ela-yolo attention model={run} source={folder}/datasets/ela-yolo-scenes/images/val/0000.jpg imgsz=64")
        # One epoch gives outputs that hardly differ between images, so a comparison could show nothing.
        call(f"ela-yolo export model={run} format=onnx imgsz=64 verify=False")
        call(f"ela-yolo remove model={run} save=plain.pt")
    print("the story went well")


if __name__ == "__main__":
    main()
