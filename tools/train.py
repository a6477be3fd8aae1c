"""``python tools/train.py model=yolov8n-ela.yaml data=my.yaml``: what ``ela-yolo train`` does, from a clone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ela_yolo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
