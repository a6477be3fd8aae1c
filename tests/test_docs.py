"""What the documents show is what the commands print."""

import ast
import doctest
import importlib
import json
import pkgutil
import re
import sys

import pytest
import yaml
from conftest import REPO, run
from ultralytics import YOLO

import ela_yolo
from ela_yolo import ELA
from ela_yolo.cli.commands import COMMANDS as TABLE
from ela_yolo.cli.keys import parse
from ela_yolo.plugin import register

sys.path.insert(0, str(REPO / "tools"))
import commands as commands_page
import study
import terminal


def test_the_page_of_commands_is_their_help(tmp_path):
    """Otherwise: python tools/commands.py."""
    assert read("docs/commands.md") == commands_page.page()
    for line in ("--help", "insert --help"):
        printed = run(sys.executable, "-m", "ela_yolo", *line.split(), cwd=tmp_path).stdout
        assert f"```\n$ ela-yolo {line}\n{printed}```" in read("docs/commands.md")


@pytest.mark.parametrize(("page", "language"), [("README.md", 1), ("README.zh-CN.md", 2)])
def test_the_gains_in_readme_are_those_of_the_recorded_runs(page, language, monkeypatch):
    """Otherwise: python tools/study.py tables."""
    monkeypatch.chdir(REPO)
    assert f"<!-- gains -->\n{study.gains_table(language)}\n<!-- end of gains -->" in read(page)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_output_in_readme_was_recorded(page):
    (shown,) = (block for block in fenced(page, "") if block.startswith("|"))
    assert shown in read("docs/data/quickstart.txt")


def test_the_recorded_session_is_what_the_pages_show():
    recorded = read("docs/data/terminal.txt")
    assert next(block for block in fenced("docs/exports.md", "") if block.startswith("best.onnx")) in recorded
    table = [line for line in recorded.splitlines() if line.startswith(("| layer", "| all blocks"))]
    assert len(table) == 5 and all(line in read("docs/ablate.md") for line in table)
    assert terminal.draw(recorded.splitlines()) == read("docs/terminal.svg")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/cost.md"])
def test_the_costs_on_a_page_were_measured(page):
    profile = json.loads(read("docs/data/profile.json"))
    for key in ("latency", "onnx", "training"):
        plain, ela = (f"{profile[side][key]['median']:.3g} ms" for side in ("plain", "ela"))
        (line,) = (line for line in read(page).splitlines() if f"| {plain}" in line and f"| {ela}" in line)
        assert f"{profile['ratios'][key]:.3f}" in line
        assert all(f"{end:.3f}" in line for end in profile["intervals"][key])


def test_the_tables_of_the_study_are_those_of_the_recorded_runs(monkeypatch):
    """Otherwise: python tools/study.py tables."""
    monkeypatch.chdir(REPO)
    assert study.rows_table() in read("docs/study.md") and study.harm_table() in read("docs/study.md")


PAGES = [
    "README.md",
    "README.zh-CN.md",
    *(str(file.relative_to(REPO)) for file in sorted((REPO / "docs").rglob("*.md"))),
]


def read(page):
    return (REPO / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    file = REPO / page
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (file.parent / link).exists()]
    assert not missing


def fenced(page, *languages):
    """The fenced blocks of these languages."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)
    return [block for language, block in blocks if language in languages]


def commands(page):
    """The command lines of a page without their comments, in order."""
    for block in fenced(page, "", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match("(ela-yolo|yolo|make|pip|python|ULTRALYTICS_SAFE_LOAD=1) ", line):
                yield " ".join(re.split(r"\s+#", line)[0].split())


@pytest.mark.parametrize(
    ("english", "chinese"), [("README.md", "README.zh-CN.md"), ("docs/tutorial.md", "docs/zh/tutorial.md")]
)
def test_the_chinese_pages_show_the_same_commands(english, chinese):
    shown = list(commands(english))
    assert len(shown) > 7 and list(commands(chinese)) == shown


TOLD = [page for page in PAGES if page != "docs/commands.md"]
COMMAND_LINES = sorted({line for page in TOLD for line in commands(page) if line.startswith("ela-yolo ")})


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_the_command_lines_of_the_pages_are_ones_that_the_commands_take(line):
    _, name, *given = line.split()
    parse(TABLE[name], given)


@pytest.mark.parametrize("row", re.findall(r"^- (\[.*\])", read("docs/rows.md") + read("README.md"), re.MULTILINE))
def test_the_rows_of_the_pages_build_a_model(row, tmp_path):
    source, *_ = rows = yaml.safe_load(row)
    before = [[-1, 1, "Conv", [64, 3, 2]]] * (source + 1 if source > 0 else 1)
    content = {"nc": 2, "backbone": [*before, rows], "head": [[[len(before)], 1, "Detect", ["nc"]]]}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    register()
    (block,) = (each for each in YOLO(tmp_path / "model.yaml").model.modules() if isinstance(each, ELA))
    assert block.channels == 64


def test_the_python_of_the_pages_calls_what_there_is():
    blocks = [block for page in PAGES for block in fenced(page, "python")]
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ela_yolo":
                assert node.attr in ela_yolo.__all__


def test_every_public_name_is_on_the_page_of_python():
    named = re.findall(r"^::: ela_yolo\.(\S+)$", read("docs/api.md"), re.MULTILINE)
    assert sorted(named) == sorted(f"{home}.{name}" for name, home in ela_yolo._HOME.items())


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
