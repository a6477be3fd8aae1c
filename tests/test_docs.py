"""What the documents show is what the commands print."""

import re
import sys

import pytest
from conftest import REPO, run

from ela_yolo.usage import COMMAND_HELP

COMMANDS = REPO / "docs/commands.md"


def transcripts():
    """Command line -> what the document says that it prints."""
    blocks = re.findall(r"```\n\$ ela-yolo (.*)\n((?:.*\n)*?)```", COMMANDS.read_text())
    return dict(blocks)


def test_every_command_is_there():
    assert list(transcripts()) == ["--help", *(f"{command} --help" for command in COMMAND_HELP)]


@pytest.mark.parametrize("line", transcripts())
def test_a_transcript_is_what_the_command_prints(line, tmp_path):
    assert run(sys.executable, "-m", "ela_yolo", *line.split(), cwd=tmp_path).stdout == transcripts()[line]


@pytest.mark.parametrize(
    "readme", ["README.md", "README.zh-CN.md", "docs/guide.md", "docs/study.md", "docs/exporting.md"]
)
def test_links_and_pictures_are_there(readme):
    file = REPO / readme
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text())
    missing = [link for link in links if "://" not in link and not (file.parent / link).exists()]
    assert not missing


def test_the_chinese_readme_shows_the_same_commands():
    def commands(text):
        fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        code = "\n".join(block for language, block in fenced if language in ("", "bash"))
        return set(re.findall(r"^((?:ela-yolo|yolo|make|pip) [^#\n]*?)\s*(?:#.*)?$", code, re.MULTILINE))

    english, chinese = (commands((REPO / name).read_text()) for name in ("README.md", "README.zh-CN.md"))
    assert len(chinese) > 10 and not {line for line in chinese if line not in english}
