"""The page of the attention pictures, in a real browser."""

import re
import shutil

import cv2
import numpy as np
import pytest
from conftest import HOME

from ela_yolo.data.scenes import render
from ela_yolo.gates.attention import attention, gate_health
from ela_yolo.gates.page import MOST, Page
from ela_yolo.gates.placement import WHOLE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MARGIN = 46  # px at the left of the image and below it, for the gates


@pytest.fixture(scope="module")
def folder(retrained, tmp_path_factory):
    """Pictures of 20 scenes, 640 px, and their page."""
    folder = tmp_path_factory.mktemp("page")
    scenes = sorted((render(HOME / "datasets/ela-yolo-scenes") / "images/val").iterdir())
    for number, scene in enumerate(scenes[:20]):
        image = cv2.resize(read(scene), (640, 512))
        cv2.imwrite(str(folder / f"scene-{number:02}.jpg"), image)
    weights = retrained / "weights/best.pt"
    report = gate_health(weights, "scenes.yaml", imgsz=64)
    attention(weights, folder / "*.jpg", folder / "out", imgsz=640, report=report)
    return folder / "out"


@pytest.fixture
def opened(folder):
    """The page in a browser, and what its console said."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    said = []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url[:4] == "http" else None)
        page.goto(f"file://{folder}/index.html")
        page.wait_for_function("Array.from(document.images).every(each => each.complete)")
        yield page
        browser.close()
    assert said == []


def read(file):
    image = cv2.imread(str(file))
    assert image is not None
    return image


def shot(page, element="#large"):
    return cv2.imdecode(np.frombuffer(page.locator(element).screenshot(), np.uint8), cv2.IMREAD_COLOR)


def difference(one, other):
    return np.abs(one.astype(int) - other).mean()


def test_twenty_images_make_less_than_three_megabytes_in_one_file(folder):
    content = (folder / "index.html").read_text(encoding="utf-8")
    assert len(content.encode()) < 3e6
    assert not re.search(r'(src|href)="(?!data:)', content) and "http" not in content
    assert {file.suffix for file in folder.iterdir()} == {".png", ".html"}


def test_it_draws_and_the_keys_walk_blocks_images_and_views(opened, folder):
    gain = shot(opened)
    assert gain.std() > 20 and len(np.unique(gain.reshape(-1, 3), axis=0)) > 1000
    assert opened.locator("#strip button").count() == 20
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#blocks [aria-pressed=true]").inner_text() == "layer 6"
    assert difference(gain, shot(opened)) > 1
    opened.keyboard.press("ArrowLeft")
    assert difference(gain, shot(opened)) == 0
    opened.keyboard.press("ArrowDown")
    assert "scene-01" in opened.locator("#told").inner_text()
    opened.keyboard.press("ArrowUp")
    opened.keyboard.press(" ")
    assert opened.locator("#views [aria-pressed=true]").inner_text() == "image"
    shown = shot(opened)
    width = round((shown.shape[0] - MARGIN) * 640 / 512)
    scene = cv2.resize(read(folder.parent / "scene-00.jpg"), (width, shown.shape[0] - MARGIN))
    assert difference(scene, shown[:-MARGIN, MARGIN : MARGIN + width]) < 20 < difference(scene, 255)


def test_the_pointer_tells_gates_and_gain(opened):
    box = opened.locator("#large").bounding_box()
    opened.mouse.move(box["x"] + 200, box["y"] + 100)
    told = opened.locator("#told").inner_text()
    found = re.fullmatch(r"layer 3, row (\d+), column (\d+): H gate ([\d.]+)x, W gate ([\d.]+)x, gain ([\d.]+)x", told)
    assert found and int(found[1]) > 5 and int(found[2]) > 5 and 0.25 < float(found[5]) < 4
    opened.mouse.move(5, 5)
    assert opened.locator("#told").inner_text().startswith("scene-00, layer 3: ELA-B paper")


def test_hovering_chooses_a_block_and_the_table_marks_it(opened):
    opened.locator("#blocks button").nth(2).hover()
    marked = opened.locator("#table tr[aria-selected=true]")
    assert marked.locator("td").first.inner_text() == "9"
    assert "random gates" in marked.inner_text()


def test_light_and_dark(opened):
    def brightness():
        return shot(opened, "body").mean()

    light = brightness()
    opened.locator("#light").click()
    assert brightness() < light - 60
    opened.locator("#light").click()
    assert abs(brightness() - light) < 2


def test_names_cannot_break_the_page(tmp_path):
    page = Page()
    grey = np.full((32, 32, 3), 90, np.uint8)
    for _ in range(MOST + 1):
        page.add("</script><b>", grey, {}, [], WHOLE, {})
    page.write(tmp_path / "index.html", None)
    content = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert content.count("</script>") == 2 and content.count('"name":') == MOST
