"""``python tools/export.py model=best.pt format=onnx``: what ``ela-yolo export`` does, from a clone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ela_yolo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
