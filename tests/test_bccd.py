"""BCCD from an archive laid out as the real one, made of the real photographs; nothing is fetched from afar."""

import hashlib
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import BIN, HOME, REPO, SHARED, forked, forked_python

from ela_yolo import InputError, RenderError
from ela_yolo.data import bccd

REAL = SHARED / "data/bccd"
ROOT = f"BCCD_Dataset-{bccd.COMMIT}"
EMPTY = ("RBC", 504, 337, 504, 337)  # the box of no size that BloodImage_00338 really has
FLAT = ("RBC", 10, 20, 90, 20)

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the photographs of shared/data/bccd are not here")


def corners(label):
    """A line of a YOLO label as (class, xmin, ymin, xmax, ymax) in pixels."""
    kind, x, y, w, h = map(float, label.split())
    sides = (x - w / 2) * 640, (y - h / 2) * 480, (x + w / 2) * 640, (y + h / 2) * 480
    return bccd.CLASSES[int(kind)], *map(round, sides)


def annotation(objects):
    sides = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    things = (f"<object><name>{kind}</name><bndbox>{sides.format(*box)}</bndbox></object>" for kind, *box in objects)
    size = "<size><width>640</width><height>480</height><depth>3</depth></size>"
    return f'<annotation verified="no">\n{size}\n{"".join(things)}\n</annotation>\n'.encode()


@pytest.fixture(scope="module")
def members():
    """The files of the repository that count, by their names in the archive."""
    grey = cv2.imencode(".jpg", np.full((480, 640, 3), 128, np.uint8))[1].tobytes()
    files = {f"{ROOT}/LICENSE": (REAL / "LICENSE").read_bytes(), f"{ROOT}/README.md": b"# BCCD Dataset"}
    lists = {"test": [f"BloodImage_{90000 + number}" for number in range(72)]}
    for split in ("train", "val"):
        lists[split] = sorted(file.stem for file in (REAL / "images" / split).glob("*.jpg"))
        for stem in lists[split]:
            objects = [
                corners(line) for line in (REAL / f"labels/{split}/{stem}.txt").read_text(encoding="utf-8").splitlines()
            ]
            objects += {"BloodImage_00338": [EMPTY], lists["train"][0]: [FLAT]}.get(stem, [])
            files[f"{ROOT}/BCCD/Annotations/{stem}.xml"] = annotation(objects)
            files[f"{ROOT}/BCCD/JPEGImages/{stem}.jpg"] = (REAL / f"images/{split}/{stem}.jpg").read_bytes()
    for stem in lists["test"]:
        files[f"{ROOT}/BCCD/Annotations/{stem}.xml"] = annotation([("WBC", 0, -3, 320, 481)])
        files[f"{ROOT}/BCCD/JPEGImages/{stem}.jpg"] = grey
    for split, stems in lists.items():
        files[f"{ROOT}/BCCD/ImageSets/Main/{split}.txt"] = "".join(f"{stem}\n" for stem in stems).encode()
    return files


@pytest.fixture(scope="module", autouse=True)
def digests(members):
    """The digests of what this test makes up; those of the licence and the real photographs stay as they are."""
    made_up = {}
    for name in [*(f"Annotations of {split}" for split in bccd.SPLITS), "JPEGImages of test"]:
        kind, split = name.split(" of ")
        ending = {"Annotations": "xml", "JPEGImages": "jpg"}[kind]
        files = sorted(
            f"{stem}.{ending}" for stem in members[f"{ROOT}/BCCD/ImageSets/Main/{split}.txt"].decode().split()
        )
        sums = (hashlib.sha256(members[f"{ROOT}/BCCD/{kind}/{file}"]).hexdigest() for file in files)
        printed = "".join(f"{each}  {file}\n" for each, file in zip(sums, files, strict=True))
        made_up[name] = hashlib.sha256(printed.encode()).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        for name, digest in made_up.items():
            assert bccd.DIGESTS[name] != digest
            patch.setitem(bccd.DIGESTS, name, digest)
        yield made_up


def pack(file, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.as_uri()


@pytest.fixture(scope="module")
def url(members, tmp_path_factory):
    return pack(tmp_path_factory.mktemp("archive") / "bccd.zip", members)


@pytest.fixture(scope="module")
def converted(url, tmp_path_factory):
    return bccd.download_bccd(tmp_path_factory.mktemp("bccd") / "data", url)


@pytest.fixture
def server():
    """A server on this machine, and what it answers by path: (status, headers, body)."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", answers
        httpd.shutdown()
        thread.join()


def refusal(folder, url, error=InputError):
    """The one line of a download that fails and leaves nothing behind."""
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(error) as caught:
        bccd.download_bccd(folder, url)
    assert sorted(folder.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_and_images_are_the_originals(split, converted):
    originals = sorted((REAL / "labels" / split).glob("*.txt"))
    assert [file.name for file in originals] == sorted(file.name for file in (converted / "labels" / split).iterdir())
    for original in originals:
        before, after = (np.loadtxt(file, ndmin=2) for file in (original, converted / "labels" / split / original.name))
        assert before.shape == after.shape  # the boxes of no size are gone
        np.testing.assert_allclose(after, before, atol=1.5e-6, rtol=0)
        image = f"images/{split}/{original.stem}.jpg"
        assert (converted / image).read_bytes() == (REAL / image).read_bytes()


def test_the_archive_of_this_test_holds_boxes_of_no_size(members):
    empty = [
        corner
        for name, file in members.items()
        if name.endswith(".xml")
        for corner in re.findall(rb"<xmin>(\d+)</xmin><ymin>(\d+)</ymin><xmax>(\d+)</xmax><ymax>(\d+)</ymax>", file)
        if corner[0] == corner[2] or corner[1] == corner[3]
    ]
    assert empty == [(b"10", b"20", b"90", b"20"), (b"504", b"337", b"504", b"337")]


def test_the_test_split_and_the_licence_come_along(converted):
    assert len(list((converted / "images/test").iterdir())) == 72
    # What reaches out of the image is cut.
    assert (converted / "labels/test/BloodImage_90071.txt").read_text() == "1 0.250000 0.500000 0.500000 1.000000\n"
    assert (converted / "LICENSE").read_bytes() == (REAL / "LICENSE").read_bytes()
    assert [path.name for path in converted.parent.iterdir()] == ["data"]


def test_the_yaml_names_the_classes_in_order():
    text = (REPO / "datasets/bccd.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    assert list(data["names"].items()) == list(enumerate(bccd.CLASSES))
    assert data["names"] == yaml.safe_load((REAL / "bccd.yaml").read_text(encoding="utf-8"))["names"]
    assert f"\n# {bccd.URL}\n" in text and bccd.COMMIT in bccd.URL


MAIN = f"{ROOT}/BCCD/ImageSets/Main"
XML, JPG = f"{ROOT}/BCCD/Annotations/BloodImage_00000.xml", f"{ROOT}/BCCD/JPEGImages/BloodImage_00000.jpg"
WRONG = {
    "an image not listed": (f"{MAIN}/val.txt", b"BloodImage_00000\n", "it lists 1 images to val, not 87"),
    "names that lead elsewhere": (f"{MAIN}/test.txt", b"../../BloodImage_90000\n" * 72, "There is no item named"),
    "a list of too many": (f"{MAIN}/test.txt", b"BloodImage_90000\n" * 73, "it lists 73 images to test, not 72"),
    "another split": (f"{MAIN}/test.txt", b"BloodImage_90000\n" * 72, "its JPEGImages of test differ in name or"),
    "a list of no text": (f"{MAIN}/test.txt", b"\xff", "'utf-8' codec can't decode"),
    "a list missing": (f"{MAIN}/test.txt", None, f"no item named '{ROOT}/BCCD/ImageSets/Main/test.txt'"),
    "all lists missing": (f"{MAIN}/train.txt", None, "There is no item named"),
    "an annotation missing": (XML, None, "BloodImage_00000.xml' in the archive"),
    "another box": (
        XML,
        annotation([("WBC", 260, 177, 491, 376)]),
        "its Annotations of val",
    ),
    "another image": (
        JPG,
        (REAL / "images/val/BloodImage_00002.jpg"),
        "its JPEGImages of val",
    ),
    "another licence": (f"{ROOT}/LICENSE", b"All rights reserved.", "its LICENSE differ in name or content"),
    "a file that grows": (
        JPG,
        bytes(10**9 // 4),
        "BloodImage_00000.jpg is larger than 100 kB",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_archive_of_something_else_is_refused(case, members, tmp_path):
    name, content, told = WRONG[case]
    changed = {**members, name: content.read_bytes() if isinstance(content, Path) else content}
    url = pack(tmp_path / "bccd.zip", {name: file for name, file in changed.items() if file is not None})
    reason = refusal(tmp_path / "data", url)
    assert reason.startswith(f"{url} is not BCCD of commit {bccd.COMMIT[:7]}: ")
    assert told in reason
    assert reason.endswith("; run this again, or name another copy of Shenggan/BCCD_Dataset as url=")


def test_a_packing_that_is_not_unpacked_piece_by_piece_is_refused(members, tmp_path):
    url = pack(tmp_path / "bccd.zip", members, zipfile.ZIP_LZMA)
    assert "LICENSE is compressed in another way than deflate" in refusal(tmp_path / "data", url)


@pytest.mark.parametrize("damage", ["cut off", "a bit fell over", "a page"])
def test_a_damaged_archive_is_refused(damage, url, tmp_path):
    content = bytearray(Path(url.removeprefix("file://")).read_bytes())
    if damage == "a bit fell over":
        content[len(content) // 2] ^= 16
    else:
        content = content[: len(content) // 2] if damage == "cut off" else b"<html>Log in to this network</html>"
    (tmp_path / "bccd.zip").write_bytes(content)
    assert "bccd.zip is not BCCD of commit d272fb1: " in refusal(tmp_path / "data", (tmp_path / "bccd.zip").as_uri())


def test_through_the_network(url, server, tmp_path):
    address, answers = server
    content = Path(url.removeprefix("file://")).read_bytes()
    answers["/whole.zip"] = 200, {}, content
    answers["/moved.zip"] = 302, {"Location": "/whole.zip"}, b""
    answers["/cut.zip"] = 200, {"Content-Length": len(content)}, content[:100_000]
    assert "IncompleteRead(100000 bytes read" in refusal(tmp_path / "data", f"{address}/cut.zip")
    answers["/endless.zip"] = 200, {}, bytes(bccd.LARGEST_ARCHIVE + 1)
    told = f"{address}/endless.zip is larger than 16 MB, and BCCD has 8 MB; run this again, or name another copy of "
    assert refusal(tmp_path / "data", f"{address}/endless.zip").startswith(told)
    bccd.download_bccd(tmp_path / "data", f"{address}/moved.zip")
    assert len(list((tmp_path / "data/images").glob("*/*.jpg"))) == 364


@pytest.mark.parametrize("address", ["{0}/none.zip", "http://127.0.0.1:9/bccd.zip", "file:///none.zip", "none.zip"])
def test_an_address_that_does_not_answer_is_one_clear_error(address, server, tmp_path):
    address = address.format(server[0])
    reason = refusal(tmp_path / "data", address)
    assert re.fullmatch(
        f"{address} cannot be fetched: .+; connect and run this again, or see bccd.yaml on how to do without", reason
    )


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero, a file without an end")
def test_a_file_without_an_end_is_refused(tmp_path):
    assert refusal(tmp_path / "data", "file:///dev/zero").startswith("file:///dev/zero is larger than 16 MB")


def test_a_finished_folder_is_left_alone(converted):
    before = (converted / "images/val/BloodImage_00000.jpg").stat().st_mtime_ns
    bccd.download_bccd(converted, "file:///none.zip")
    assert (converted / "images/val/BloodImage_00000.jpg").stat().st_mtime_ns == before


def test_a_folder_of_something_else_is_refused_and_kept(url, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.txt").write_text("mine")
    assert "is not a finished data set; move or delete it" in refusal(tmp_path / "data", url, RenderError)


def test_a_place_that_cannot_be_written_is_one_clear_error(url, tmp_path):
    (tmp_path / "file").write_text("")
    told = "cannot be written: File exists; choose another folder"
    assert told in refusal(tmp_path / "file/data", url, RenderError)


def test_ultralytics_download_field_converts_at_first_use(url, digests, tmp_path):
    """Through Ultralytics' own reading of the data YAML, into its data-set folder; the second use finds it there."""
    text = (REPO / "datasets/bccd.yaml").read_text(encoding="utf-8")
    call = 'download_bccd(yaml["path"])\n'
    assert text.endswith(call)
    (tmp_path / "bccd.yaml").write_text(text.replace(call, 'download_bccd(yaml["path"], url="file:///none.zip")\n'))
    failed = forked(BIN / "ela-yolo", "val", "model=yolov8n-ela.yaml", "data=bccd.yaml", cwd=tmp_path, ok=False)
    assert failed.returncode == 1
    assert "file:///none.zip cannot be fetched: " in failed.stderr.splitlines()[-1]
    assert not list((HOME / "datasets").glob("*bccd*"))

    made_up = f"import ela_yolo.data.bccd; ela_yolo.data.bccd.DIGESTS.update({digests}); "
    (tmp_path / "bccd.yaml").write_text(text.replace(call, f'{made_up}download_bccd(yaml["path"], url="{url}")\n'))
    code = "from ultralytics.data.utils import check_det_dataset; print(check_det_dataset('bccd.yaml')['val'])"
    for _ in range(2):
        done = forked_python(code, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == str(HOME / "datasets/ela-yolo-bccd/images/val")
    assert "images not found" not in done.stdout + done.stderr
