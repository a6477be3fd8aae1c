"""Downloads the data set BCCD (blood cells) and converts its Pascal VOC annotations to YOLO labels."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.request import urlopen
from xml.etree import ElementTree

from ela_yolo.errors import InputError
from ela_yolo.util.files import atomic_data_set

COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"  # of Shenggan/BCCD_Dataset
URL = f"https://github.com/Shenggan/BCCD_Dataset/archive/{COMMIT}.zip"
CLASSES = ("RBC", "WBC", "Platelets")
SPLITS = {"train": 205, "val": 87, "test": 72}  # images
# SHA-256 of the output of `sha256sum` for the files that are used, sorted by name. The archive itself is not hashed:
# GitHub may pack the same files into other bytes.
DIGESTS = {
    "LICENSE": "6ef88d713556ef78d2eb7a92dbceab099f67dff6f9e53a9ab4d552c976808446",
    "JPEGImages of train": "f60832f4c0a1dcc733717d4ac26939b3a26087d0d1a4c5b5082e42dfd461eb95",
    "Annotations of train": "8629eaac45eae46f002093c68144a048209c77dac2693af30dabf4978f6f46e5",
    "JPEGImages of val": "dfbcc2ee0a8bcd4e7d2f0605f79e4b30ec6812dcd6064087dff7967aada86578",
    "Annotations of val": "0d8df26bd90a906d221c4abd35e32eda175f76fb856110cf42872fa87541e6cd",
    "JPEGImages of test": "ffd6a636a2b3f01cf0e15dccdf87a4f62bf7b0aa21cdb8b6637291520861990b",
    "Annotations of test": "c9ccdd83100dd21bd0d5b4a79760f65f9f23bc4d0cb2aba848c689174045d980",
}
WIDTH, HEIGHT = 640, 480
TIMEOUT = 30  # seconds without a byte
LARGEST_ARCHIVE = 16_000_000  # bytes, twice what it has
LARGEST_FILE = 100_000  # bytes, four times the largest that is used
REMEDY = "run this again, or name another copy of Shenggan/BCCD_Dataset as url="


def download_bccd(folder: str | Path, url: str = URL) -> Path:
    """Download and convert the data set into a new folder; a folder that holds it already is left as it is.

    Each file is checked against a digest of the pinned commit before it is parsed or written. The folder gets its name
    when everything is written. An interrupted download leaves at most a hidden folder beside it, which may be deleted.

    Args:
        folder: The folder for ``images/`` and ``labels/``, each with ``train/``, ``val/`` and ``test/``, and for the
            licence.
        url: A zip archive of the repository; ``file:///...`` names a local copy.

    Returns:
        The folder.

    Raises:
        InputError: If the archive cannot be downloaded, or its files differ from those of BCCD.
        RenderError: If the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    if _is_finished(folder):
        return folder
    with atomic_data_set(folder, _is_finished) as part:
        _convert(_fetch(url), part, url)
    return folder


def _fetch(url: str) -> bytes:
    try:
        with urlopen(url, timeout=TIMEOUT) as answer:
            content = bytes(answer.read(LARGEST_ARCHIVE + 1))
            missing = getattr(answer, "length", None)
            if missing and len(content) <= LARGEST_ARCHIVE:
                raise IncompleteRead(content, missing)  # read() raises it only without a limit
    except (OSError, HTTPException, ValueError) as error:  # ValueError: url is not a URL
        reason = " ".join(str(getattr(error, "reason", "") or error).split()) or type(error).__name__
        raise InputError(
            f"{url} cannot be fetched: {reason}; connect and run this again, or see bccd.yaml on how to do without"
        ) from error
    if len(content) > LARGEST_ARCHIVE:
        raise InputError(f"{url} is larger than {LARGEST_ARCHIVE // 1_000_000} MB, and BCCD has 8 MB; {REMEDY}")
    return content


def _convert(content: bytes, folder: Path, url: str) -> None:
    """Write the images, labels and licence of an archive into a folder.

    Raises:
        InputError: If the archive is damaged, or its files differ from those of BCCD.
        OSError: If a file cannot be written.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        list_of_train = "BCCD/ImageSets/Main/train.txt"
        root = next((name for name in archive.namelist() if name.endswith(f"/{list_of_train}")), "")
        root = root.removesuffix(list_of_train)
        licence = _verified("LICENSE", {"LICENSE": _read(archive, f"{root}LICENSE")})
        (folder / "LICENSE").write_bytes(licence["LICENSE"])
        for split, count in SPLITS.items():
            stems = sorted(_read(archive, f"{root}BCCD/ImageSets/Main/{split}.txt").decode().split())
            if len(stems) != count:
                raise ValueError(f"it lists {len(stems)} images to {split}, not {count}")
            images, annotations = (
                _verified(
                    f"{kind} of {split}",
                    {f"{stem}{ending}": _read(archive, f"{root}BCCD/{kind}/{stem}{ending}") for stem in stems},
                )
                for kind, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml"))
            )
            for kind in ("images", "labels"):
                (folder / kind / split).mkdir(parents=True)
            for name, image in images.items():
                (folder / "images" / split / name).write_bytes(image)
            for name, annotation in annotations.items():
                label = (folder / "labels" / split / name).with_suffix(".txt")
                label.write_text("".join(_lines(annotation)), encoding="utf-8")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split()) or type(error).__name__
        raise InputError(f"{url} is not BCCD of commit {COMMIT[:7]}: {reason}; {REMEDY}") from error


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a file of the archive.

    Raises:
        ValueError: If it is larger than any file of BCCD, or compressed in another way than GitHub does it.
    """
    member = archive.getinfo(name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others cannot be read up to a limit
        raise ValueError(f"{name} is compressed in another way than deflate")
    with archive.open(member) as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{name} is larger than {LARGEST_FILE // 1000} kB")
    return content


def _verified(what: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files if they are those of the pinned commit.

    Raises:
        ValueError: If a name or a content differs.
    """
    listed = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    if hashlib.sha256(listed.encode()).hexdigest() != DIGESTS[what]:
        raise ValueError(f"its {what} differ in name or content")
    return files


def _lines(annotation: bytes) -> Iterator[str]:
    """Yield a line of the label for each object: class, centre and size, as shares of the image."""
    for thing in ElementTree.fromstring(annotation).iter("object"):
        kind = CLASSES.index(thing.findtext("name", ""))
        corners = [float(thing.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
        left, right = (min(max(x, 0), WIDTH) / WIDTH for x in corners[::2])
        top, bottom = (min(max(y, 0), HEIGHT) / HEIGHT for y in corners[1::2])
        # Some boxes have no size, such as that of an RBC in BloodImage_00338 at (504, 337).
        if right > left and bottom > top:
            centre, size = ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top)
            yield f"{kind} {' '.join(f'{share:.6f}' for share in (*centre, *size))}\n"


def _is_finished(folder: Path) -> bool:
    # A folder gets its name only when it is complete, but a user may have deleted files since.
    return all(
        sum(1 for _ in (folder / kind / split).glob(f"BloodImage_*{suffix}")) == count
        for kind, suffix in (("images", ".jpg"), ("labels", ".txt"))
        for split, count in SPLITS.items()
    )
