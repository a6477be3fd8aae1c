"""Files that are written whole, with the mode of what they replace."""

import os
from stat import S_IMODE

import pytest
from conftest import python

from ela_yolo import insert
from ela_yolo.util.files import atomic_write
from ela_yolo.util.json import write_json


def mode(file):
    return oct(S_IMODE(file.stat().st_mode))


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.usefixtures("umask")
class TestModes:
    @pytest.mark.parametrize("before", [0o600, 0o640, 0o664, 0o755, 0o444])
    def test_a_replaced_file_keeps_its_mode(self, before, tmp_path):
        file = tmp_path / "report.json"
        file.write_text("old", encoding="utf-8")
        file.chmod(before)
        write_json(file, {"new": 1})
        assert '"new"' in file.read_text(encoding="utf-8") and mode(file) == oct(before)

    def test_a_new_file_has_the_mode_of_any_other(self, tmp_path):
        write_json(tmp_path / "report.json", {})
        assert mode(tmp_path / "report.json") == oct(0o640)

    def test_nobody_else_can_read_a_private_file_while_it_is_written(self, tmp_path):
        file = tmp_path / "secret.txt"
        file.touch(0o600)
        with atomic_write(file) as part:
            part.write_text("secret", encoding="utf-8")
            assert mode(part) == oct(0o600)

    def test_a_link_stays_one_and_its_file_keeps_its_mode(self, tmp_path):
        file, link = tmp_path / "report.json", tmp_path / "link.json"
        file.touch(0o600)
        link.symlink_to(file)
        write_json(link, {})
        assert link.is_symlink() and file.read_text(encoding="utf-8") == "{}" and mode(file) == oct(0o600)

    def test_insert_keeps_the_mode_of_a_yaml_that_it_replaces(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.touch(0o600)
        insert("yolov8n.yaml", save=file, exist_ok=True)
        assert "ELA, [{gate" in file.read_text(encoding="utf-8") and mode(file) == oct(0o600)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    code = """
import resource
from pathlib import Path
from ela_yolo.util.json import write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))  # the write itself fails then, as on a full disk
try:
    write_json(Path("report.json"), {"long": "text"})
except OSError as error:
    print(Path(error.filename).name, [*Path().iterdir()])
"""
    assert python(code, cwd=tmp_path).stdout == "report.json []\n"


def test_a_failure_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "report.txt"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), atomic_write(file) as part:
        part.write_text("new \udc00", encoding="utf-8")
    assert file.read_text(encoding="utf-8") == "old" and [each.name for each in tmp_path.iterdir()] == ["report.txt"]
