"""The page of the attention pictures, in a real browser."""

import re
import shutil

import cv2
import numpy as np
import pytest
from conftest import HOME

from ela_yolo.data.scenes import render
from ela_yolo.gates.attention import attention
from ela_yolo.gates.geometry import WHOLE
from ela_yolo.gates.page import MOST, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MARGIN = 46  # px at the left of the image and below it, for the gates


@pytest.fixture(scope="module")
def folder(sure, tmp_path_factory):
    """Pictures of 5 scenes, 640 px, and their page."""
    folder = tmp_path_factory.mktemp("page")
    scenes = sorted((render(HOME / "datasets/ela-yolo-scenes") / "images/val").iterdir())
    for number, scene in enumerate(scenes[:5]):
        image = cv2.resize(read(scene), (640, 512))
        cv2.imwrite(str(folder / f"scene-{number:02}.jpg"), image)
    attention(sure, folder / "*.jpg", folder / "out", imgsz=160, max_det=3)
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


def test_five_images_make_less_than_a_megabyte_in_one_file(folder):
    content = (folder / "index.html").read_text(encoding="utf-8")
    assert len(content.encode()) < 0.8e6
    assert not re.search(r'(src|href)="(?!data:)', content) and "http" not in content
    assert {file.suffix for file in folder.iterdir()} == {".png", ".html"}


def test_it_draws_and_the_keys_walk_detections_blocks_and_images(opened):
    first = shot(opened)
    assert first.std() > 20 and len(np.unique(first.reshape(-1, 3), axis=0)) > 500
    assert opened.locator("#strip button").count() == 5
    assert opened.locator("#detections button").count() == 3
    told = opened.locator("#told").inner_text()
    assert re.fullmatch(r"\w+ [\d.]+, without attention [\d.]+\nattention at layer \d+ (raises|lowers|makes) .*", told)
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#detections button").nth(1).get_attribute("aria-pressed") == "true"
    assert difference(first, shot(opened)) > 0
    opened.keyboard.press("ArrowLeft")
    assert difference(first, shot(opened)) == 0
    chosen = opened.locator("#blocks [aria-pressed=true]").inner_text()
    opened.keyboard.press(" ")
    other = opened.locator("#blocks [aria-pressed=true]").inner_text()
    assert chosen != other and opened.locator("#change").inner_text().startswith(f"attention at {other}")
    opened.keyboard.press("ArrowDown")
    assert opened.locator("#strip button").nth(1).get_attribute("aria-pressed") == "true"


def test_a_click_on_a_detection_chooses_it(opened):
    for number in range(3):
        place = opened.evaluate(
            """number => {
                const outline = data.images[0].detections[number].outline, {inner, height} = state.frame;
                const middle = axis => (outline[0][axis] + outline[2][axis]) / 2;
                return [MARGIN + middle(0) * inner, middle(1) * height];
            }""",
            number,
        )
        box = opened.locator("#large").bounding_box()
        opened.mouse.click(box["x"] + place[0], box["y"] + place[1])
        assert opened.locator("#detections [aria-pressed=true]").count() == 1
        label = opened.locator("#detections [aria-pressed=true]").inner_text()
        assert opened.locator("#head").inner_text().startswith(label)


def test_the_map_and_the_gates_are_drawn(opened):
    """Red where the data say so, and lines beside the image."""
    opened.evaluate("const d = data.images[0].detections[0]; const t = d.traces[d.strongest]; t.map.fill(255); draw()")
    red = shot(opened)[: -MARGIN - 4, MARGIN + 4 : MARGIN + 100].reshape(-1, 3).mean(0)
    assert red[2] > red[0] + 60
    beside = shot(opened)[:, : MARGIN - 8]
    assert len(np.unique(beside.reshape(-1, 3), axis=0)) > 5


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
        page.add("</script><b>", grey, {}, [], WHOLE)
    page.write(tmp_path / "index.html")
    content = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert content.count("</script>") == 2 and content.count('"name":') == MOST
