"""What the documents show is what the commands print."""

import doctest
import importlib
import pkgutil
import re
import sys

import pytest
from conftest import REPO, run

import ela_yolo
from ela_yolo.cli.commands import COMMANDS as TABLE

COMMANDS = REPO / "docs/commands.md"


def transcripts():
    """Command line -> what the document says that it prints."""
    blocks = re.findall(r"```\n\$ ela-yolo (.*)\n((?:.*\n)*?)```", COMMANDS.read_text(encoding="utf-8"))
    return dict(blocks)


def test_every_command_is_there():
    assert list(transcripts()) == ["--help", *(f"{command} --help" for command in TABLE)]


@pytest.mark.parametrize("line", transcripts())
def test_a_transcript_is_what_the_command_prints(line, tmp_path):
    assert run(sys.executable, "-m", "ela_yolo", *line.split(), cwd=tmp_path).stdout == transcripts()[line]


@pytest.mark.parametrize(
    "readme", ["README.md", "README.zh-CN.md", "docs/guide.md", "docs/study.md", "docs/exporting.md"]
)
def test_links_and_pictures_are_there(readme):
    file = REPO / readme
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (file.parent / link).exists()]
    assert not missing


def commands(readme):
    """The command lines of a README: those of its fenced code, without comments, and those of its table, in order."""
    text = (REPO / readme).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```|^\| (`ela-yolo .*?`) \|", text, re.DOTALL | re.MULTILINE)
    for language, block, cell in fenced:
        for line in re.findall("`(.+?)`", cell):
            yield line
        for line in block.splitlines() if language in ("", "bash") else ():
            if re.match("(ela-yolo|yolo|make|pip|python|ULTRALYTICS_SAFE_LOAD=1) ", line):
                yield from re.split(r" \| |, ", re.split(r"\s+#|\s{2,}", line.strip())[0])


def test_the_chinese_readme_shows_the_same_commands():
    english, chinese = (list(commands(readme)) for readme in ("README.md", "README.zh-CN.md"))
    assert len(english) > 30 and "ela-yolo doctor" in english
    assert chinese == english


MODULES = [
    module.name for module in pkgutil.walk_packages(ela_yolo.__path__, "ela_yolo.") if "__main__" not in module.name
]
EXAMPLES = [
    example
    for module in MODULES
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    if example.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_examples_of_docstrings_run(example):
    told = []
    doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE).run(example, out=told.append)
    assert not told, "".join(told)


def test_examples_are_found():
    written = sum(file.read_text(encoding="utf-8").count(">>> ") for file in (REPO / "ela_yolo").rglob("*.py"))
    assert sum(len(example.examples) for example in EXAMPLES) == written > 5
