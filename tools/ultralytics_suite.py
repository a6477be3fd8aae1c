"""Runs Ultralytics' own tests without and with the plugin, and compares what each of them gives.

::

    python tools/ultralytics_suite.py        # 10 minutes on two CPU cores

The tests come with Ultralytics' source distribution, of the version that is installed. Nothing is fetched while they
run, so those that need the network fail: on both sides, or the plugin changed something.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from ultralytics import __version__

LIMIT = 2 * 3600  # s, of each process that is started here


def main() -> int:
    """Print the results and all differences, and return the exit status: 1 if there is a difference."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*fetch, "--dest", folder, f"ultralytics=={__version__}"], check=True, timeout=LIMIT)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder / "without", filter="data")
            archive.extractall(folder / "with", filter="data")
        without, with_plugin = run(folder / "without", "0"), run(folder / "with", "1")
    print(f"the tests of ultralytics {__version__}")
    for name, results in (("without", without), ("with", with_plugin)):
        counts = Counter(results.values())
        print(f"{name:8} the plugin: {', '.join(f'{counts[kind]} {kind}' for kind in sorted(counts))}")
    different = [test for test in without.keys() | with_plugin.keys() if without.get(test) != with_plugin.get(test)]
    for test in sorted(different):
        print(f"{test}: {without.get(test)} without, {with_plugin.get(test)} with the plugin")
    failing = sorted(test for test, result in without.items() if result in ("failed", "error"))
    print("\nfailing on both sides:\n" + "\n".join(test for test in failing if test not in different))
    return 1 if different or "passed" not in without.values() else 0


def run(folder: Path, autoload: str) -> dict[str, str]:
    """Return test -> result. ``autoload`` switches the plugin on or off."""
    (clone,) = folder.iterdir()
    config, report = folder / "config", folder / "report.xml"
    config.mkdir()
    private = {"YOLO_CONFIG_DIR": str(config), "ELA_YOLO_AUTOLOAD": autoload}
    offline = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    proxy = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # refuses connections at once
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    env = {**os.environ, **private, **offline, **proxy}
    subprocess.run(command, cwd=clone, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=LIMIT)
    kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
    return {
        f"{case.get('classname')}::{case.get('name')}": next(
            (kinds[child.tag] for child in case if child.tag in kinds), "passed"
        )
        for case in ElementTree.parse(report).iter("testcase")
    }


if __name__ == "__main__":
    sys.exit(main())
