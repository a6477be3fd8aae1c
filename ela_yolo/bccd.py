"""Downloads the BCCD blood cells and converts their Pascal VOC annotations to labels in YOLO format."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen
from xml.etree import ElementTree

import cv2
import numpy as np

from ela_yolo.errors import InputError
from ela_yolo.files import data_set_written_whole

URL = "https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip"
CLASSES = ("RBC", "WBC", "Platelets")
SPLITS = {"train": 205, "val": 87, "test": 72}  # images
# Boxes of each class, without those of no size. The test split is counted in images alone.
BOXES = {"train": (2381, 214, 209), "val": (967, 87, 83)}
WIDTH, HEIGHT = 640, 480
TIMEOUT = 30  # seconds without a byte


def download_bccd(folder: str | Path, url: str = URL) -> Path:
    """Download and convert the data set into a folder that does not exist yet, or do nothing if it is finished.

    The folder appears under its name when all is written and counted: an interrupted download leaves at most a hidden
    folder beside it, which may be deleted.

    Args:
        folder: Gets ``images/`` and ``labels/``, each with ``train/``, ``val/`` and ``test/``, and the licence.
        url: The zip archive of the repository; ``file:///...`` takes one that was fetched before.

    Returns:
        The folder.

    Raises:
        InputError: If the archive cannot be fetched, or is not that of BCCD.
        RenderError: If the folder is there and holds something else, or cannot be written.
    """
    folder = Path(folder)
    if _is_finished(folder):
        return folder
    with data_set_written_whole(folder, _is_finished) as part:
        _convert(_fetch(url), part, url)
    return folder


def _fetch(url: str) -> bytes:
    try:
        with urlopen(url, timeout=TIMEOUT) as answer:
            return bytes(answer.read())
    except (OSError, HTTPException, ValueError) as error:  # ValueError: url is no address
        reason = " ".join(str(getattr(error, "reason", "") or error).split()) or type(error).__name__
        raise InputError(
            f"{url} cannot be fetched: {reason}; connect and run this again, or see bccd.yaml on how to do without"
        ) from error


def _convert(content: bytes, folder: Path, url: str) -> None:
    """Write images, labels and licence out of the archive, and count them.

    Raises:
        InputError: If the archive is broken, or holds anything but what is known of BCCD.
        OSError: If they cannot be written.
    """
    remedy = "run this again, or name another copy of Shenggan/BCCD_Dataset as url="
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        list_of_train = "BCCD/ImageSets/Main/train.txt"
        root = next((name for name in archive.namelist() if name.endswith(f"/{list_of_train}")), "")
        root = root.removesuffix(list_of_train)
        (folder / "LICENSE").write_bytes(archive.read(f"{root}LICENSE"))
        for split, known in SPLITS.items():
            listed = archive.read(f"{root}BCCD/ImageSets/Main/{split}.txt").decode()
            # Only names of this form become names of files.
            stems = sorted(set(re.findall(r"^BloodImage_\d{5}(?=\s*$)", listed, re.MULTILINE)))
            if len(stems) != known:
                raise InputError(f"{url} lists {len(stems)} images to {split}, and BCCD has {known}; {remedy}")
            for part in ("images", "labels"):
                (folder / part / split).mkdir(parents=True)
            boxes: Counter[int] = Counter()
            for stem in stems:
                image = archive.read(f"{root}BCCD/JPEGImages/{stem}.jpg")
                pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) if image else None
                if pixels is None or pixels.shape[:2] != (HEIGHT, WIDTH):
                    raise InputError(f"{url}: {stem}.jpg is no image of {WIDTH}x{HEIGHT} pixels; {remedy}")
                try:
                    labels = list(_labels(archive.read(f"{root}BCCD/Annotations/{stem}.xml")))
                except (ElementTree.ParseError, ValueError) as error:
                    raise InputError(f"{url}: {stem}.xml is no annotation of BCCD: {error}; {remedy}") from error
                boxes.update(label for label, *_ in labels)
                (folder / "images" / split / f"{stem}.jpg").write_bytes(image)
                lines = (f"{label} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for label, x, y, w, h in labels)
                (folder / "labels" / split / f"{stem}.txt").write_text("".join(lines))
            found = tuple(boxes[label] for label in range(len(CLASSES)))
            if found != BOXES.get(split, found):
                raise InputError(
                    f"{url} holds {_per_class(found)} to {split}, and BCCD has {_per_class(BOXES[split])}; {remedy}"
                )
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
        raise InputError(f"{url} is not the whole archive of BCCD: {reason}; {remedy}") from error


def _labels(annotation: bytes) -> Iterator[tuple[int, float, float, float, float]]:
    """Give the class, centre and size of each object, in shares of the image.

    Raises:
        ElementTree.ParseError: If it is no XML.
        ValueError: If a class is unknown, or a corner is no number.
    """
    for thing in ElementTree.fromstring(annotation).iter("object"):
        name = thing.findtext("name", "")
        if name not in CLASSES:
            raise ValueError(f"there is no class {name!r}")
        corners = [float(thing.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
        left, right = (min(max(x, 0), WIDTH) / WIDTH for x in corners[::2])
        top, bottom = (min(max(y, 0), HEIGHT) / HEIGHT for y in corners[1::2])
        # A slip of the annotator's mouse left boxes of no size, such as an RBC of BloodImage_00338 at (504, 337).
        if right > left and bottom > top:
            yield CLASSES.index(name), (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _per_class(boxes: tuple[int, ...]) -> str:
    return ", ".join(f"{count} {name}" for count, name in zip(boxes, CLASSES, strict=True))


def _is_finished(folder: Path) -> bool:
    # A folder gets its name only when complete; what a user deleted from it since is missing here.
    return all(
        sum(1 for _ in (folder / kind / split).glob(f"BloodImage_*{suffix}")) == count
        for kind, suffix in (("images", ".jpg"), ("labels", ".txt"))
        for split, count in SPLITS.items()
    )
