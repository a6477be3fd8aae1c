"""Runs a program after the start-up files of a folder, as Python 3.15 does (PEP 829), in a Python that does not yet.

``python -S pep829.py SITE-PACKAGES PROGRAM ARGUMENTS``
"""

import os
import pkgutil
import re
import runpy
import sys
import traceback


def read(folder, suffix):
    """Name without the suffix -> the lines that are neither blank nor comments, by the names in their order."""
    files = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(suffix) and not name.startswith("."):
            with open(os.path.join(folder, name), encoding="utf-8-sig") as file:
                lines = [line.strip() for line in file]
            files[name.removesuffix(suffix)] = [line for line in lines if line and not line.startswith("#")]
    return files


def start(folder):
    """All paths come first. A .start file, empty or not, switches off the import lines of the .pth file of its name."""
    legacy, starts = read(folder, ".pth"), read(folder, ".start")
    sys.path.append(folder)
    imports = []
    for name, lines in legacy.items():
        for line in lines:
            path = os.path.join(folder, line)
            if line.startswith(("import ", "import\t")):
                imports += [line] * (name not in starts)
            elif os.path.exists(path) and path not in sys.path:
                sys.path.append(path)
    for line in imports:
        report_failure(exec, line)
    for entry in (entry for entries in starts.values() for entry in entries):
        report_failure(call, entry)


def call(entry):
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", entry):
        raise ValueError(f"{entry} is not package.module:callable")
    pkgutil.resolve_name(entry)()


def report_failure(function, argument):
    """What fails is printed, and Python goes on."""
    try:
        function(argument)
    except Exception:
        traceback.print_exc()


if __name__ == "__main__":
    site_packages, *sys.argv = sys.argv[1:]
    start(site_packages)
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
