"""``python -m ela_yolo``: the command ``ela-yolo``."""

import sys

from ela_yolo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
