"""The page at `/` and the documentation at `/docs`, in a real Chromium without a window (Debian's)."""

import csv
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from service.artifact import read, variants
from service.client.cli import COLUMNS
from service.http import pages as served
from service.settings import REPOSITORY, Settings

playwright = pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright: make test")
from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Dialog, FileChooser, Locator, Page, Route, expect  # noqa: E402

from tests.support.artifacts import PUBLISHED  # noqa: E402
from tests.support.processes import program  # noqa: E402
from tests.support.samples import FOLDER, SAMPLES  # noqa: E402
from tests.support.servers import running  # noqa: E402

pytestmark = pytest.mark.slow

expect.set_options(timeout=60_000)  # a variant that is compared has to be loaded first

EXAMPLES = {"a blue plate": "云JJ5X61", "a green plate": "新NB88079", "a yellow plate": "豫UU4ZPP"}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
SCROLL_WIDTH = "() => document.documentElement.scrollWidth"
WIDE = {"viewport": {"width": 1280, "height": 860}}

Launch = Callable[..., Browser]
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The server of the default variant."""
    with running(Settings(threads=1)) as url:
        yield url


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Starts a Chromium with the given switches."""
    chromium = program("chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium refuses to root
    with playwright.sync_playwright() as driver:
        browsers: list[Browser] = []

        def launch(*switches: str) -> Browser:
            browsers.append(driver.chromium.launch(executable_path=chromium, args=[*sandbox, *switches]))
            return browsers[-1]

        yield launch
        for browser in browsers:
            browser.close()


@pytest.fixture(scope="module")
def chromium(launch: Launch) -> Browser:
    return launch()


@pytest.fixture
def visit(chromium: Browser, url: str) -> Iterator[Visit]:
    """Opens the page as a kind of visitor, and in the end checks that it asked nobody else and logged no error."""
    contexts: list[BrowserContext] = []
    asked: list[str] = []
    said: list[str] = []

    def visit(path: str = "/", **visitor: object) -> Page:
        contexts.append(chromium.new_context(**(visitor or WIDE)))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url + path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [address for address in asked if not address.startswith(f"{url}/")] == []
    assert [line for line in said if "Failed to load resource" not in line] == []  # how Chromium logs a refusal


def example(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Try an example: {name}").click()


def choose(page: Page, *files: Path) -> None:
    page.locator("#files").set_input_files(files)


def readings(page: Page, count: int) -> list[str]:
    """The texts of all cards, once there are `count` of them and all are read."""
    cards = page.locator(".card:not([aria-busy])")
    expect(cards).to_have_count(count)
    return [card.get_by_role("heading", level=2).inner_text() for card in cards.all()]


def sees(page: Page, text: str) -> Locator:
    found = page.get_by_text(text)
    expect(found.first).to_be_visible()
    return found


@pytest.fixture(scope="module")
def uncertain(url: str) -> dict:
    """What the server says of the blurred example, which depends on the model."""
    image = (served.STATIC / "examples" / "hard.png").read_bytes()
    return dict(httpx.post(f"{url}/recognize", files={"image": image}).json())


@pytest.fixture(scope="module")
def blurred(uncertain: dict) -> str:
    """The text read on the blurred example."""
    return str(uncertain["results"][0]["plates"][0]["text"])


def test_a_first_visitor_sees_what_to_do_and_what_reads(visit):
    page = visit()
    expect(page.get_by_role("heading", level=1, name="What does the plate say?")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Drop a picture here"))).to_be_visible()
    expect(page.get_by_role("button", name="Use the camera")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Try an example"))).to_have_count(4)
    facts = page.locator("#facts")
    expect(facts).to_contain_text(Settings().variant)
    expect(page.get_by_label("Compare all variants")).to_be_hidden()  # there is nothing to compare yet


@pytest.mark.parametrize(("name", "text"), EXAMPLES.items())
def test_an_example_is_read(visit, name, text):
    page = visit()
    example(page, name)
    assert readings(page, 1) == [text]
    expect(page.get_by_role("status")).to_contain_text(f"reads {text}, ")
    sees(page, f"fits {'cn-new-energy' if name == 'a green plate' else 'cn-standard'}")


def test_a_province_is_shown_where_no_typeface_has_it(visit):
    """`visit` sees whether the font was refused or came from elsewhere."""
    page = visit()
    loaded = page.evaluate("async () => (await document.fonts.load('16px \"Plate strokes\"', '云')).map(f => f.status)")
    assert loaded == ["loaded"]
    for style in ("--text", "--sign"):  # behind those of the machine, in all that may show a plate
        fonts = page.evaluate(f"() => getComputedStyle(document.body).getPropertyValue('{style}')")
        assert fonts.endswith('sans-serif, "Plate strokes"')


def test_a_reading_is_shown_with_all_that_the_server_said(visit, uncertain):
    page = visit()
    example(page, "a blurred plate")
    (plate,) = uncertain["results"][0]["plates"]
    assert readings(page, 1) == [plate["text"]]
    characters = page.get_by_role("list", name="Each character and how sure it is").get_by_role("listitem")
    shown = [item.inner_text().split("\n") for item in characters.all()]
    assert [lines[0] for lines in shown] == list(plate["text"])
    assert [float(lines[-1]) for lines in shown] == pytest.approx(
        [100 * character["confidence"] for character in plate["characters"]], abs=0.2
    )
    for item, character in zip(characters.all(), plate["characters"], strict=True):
        spoken = item.text_content().replace("\xa0", " ")  # by a screen reader
        assert re.match(rf"{character['char']} (> )?[\d.]+ %", spoken)
    candidates = page.locator(".candidates .text")
    texts = [candidate["text"] for candidate in plate["candidates"]]
    assert candidates.all_inner_texts() == texts
    other = [
        char
        for text in texts
        if len(text) == len(texts[0])
        for char, first in zip(text, texts[0], strict=True)
        if char != first
    ]
    assert page.locator(".candidates mark").all_inner_texts() == other
    stages = page.locator(".legend dt").all_inner_texts()
    assert stages == ["Decode", "Resize", "Wait", "Inference", "Read the text", "Seen from the browser"]
    assert page.locator(".stages .stage").count() == 5  # of which the total consists
    model = uncertain["model"]
    expect(page.locator(".reader")).to_have_text(f"Read by {model['variant']} {model['version']} on {model['engine']}")
    sees(page, f"fits {', '.join(plate['formats'])}" if plate["formats"] else "fits no known format")


def test_several_files_are_read_each_on_its_own(visit):
    page = visit()
    choose(page, *(FOLDER / file for file, _ in SAMPLES))
    assert readings(page, len(SAMPLES)) == [text for _, text in SAMPLES]
    assert page.locator("figcaption").all_inner_texts() == [f"{file} 94 × 24" for file, _ in SAMPLES]
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def dropped(page: Page, data: str) -> None:
    transfer = page.evaluate_handle(data)
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event("main", kind, {"dataTransfer": transfer})


def test_a_file_can_be_dropped_and_anything_else_is_explained(visit):
    page = visit()
    dropped(page, "() => new DataTransfer()")
    sees(page, "That was no file")
    dropped(
        page,
        """async () => {
            const transfer = new DataTransfer();
            const image = await (await fetch("static/examples/blue.jpg")).blob();
            transfer.items.add(new File([image], "dropped.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
    )
    assert readings(page, 1) == ["云JJ5X61"]
    expect(page.locator("#notice")).to_be_hidden()


def test_an_image_can_be_pasted_and_its_text_copied(visit, blurred):
    page = visit(**WIDE, permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async () => {
            const image = await (await fetch("static/examples/hard.png")).blob();
            await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
        }"""
    )
    page.keyboard.press("Control+V")
    assert readings(page, 1) == [blurred]
    page.get_by_role("button", name=f"Copy {blurred}").click()
    sees(page, "Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == blurred


def test_a_refusal_is_shown_in_the_words_of_the_server(visit, url):
    page = visit()
    file = REPOSITORY / "LICENSE"
    choose(page, file, FOLDER / "blue.png")
    assert readings(page, 2) == ["Not read", "渝U10841"]
    refused = httpx.post(f"{url}/recognize", files={"image": (file.name, file.read_bytes())}).json()
    expect(page.locator(".sentence")).to_have_text(refused["detail"])
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)  # it would not help


@pytest.mark.parametrize(("size", "advice"), [((94, 24), "Cut the image"), ((1200, 900), "whole photograph")])
def test_what_is_no_crop_of_a_plate_has_none_and_is_met_with_note_and_advice(visit, url, tmp_path, size, advice):
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), np.full((size[1], size[0], 3), 128, np.uint8))
    (result,) = httpx.post(f"{url}/recognize", files={"image": grey.read_bytes()}).json()["results"]
    page = visit()
    choose(page, grey)
    assert readings(page, 1) == ["No plate"]
    assert page.locator(".note").inner_text() == result["note"]
    expect(page.get_by_role("status")).to_contain_text(result["note"])
    sees(page, advice)


def test_a_lost_connection_is_explained_and_can_be_tried_again(visit):
    page = visit()
    page.context.set_offline(True)
    choose(page, FOLDER / "blue.png")
    assert readings(page, 1) == ["Not read"]
    sees(page, "The server did not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".characters")).to_be_visible()
    assert readings(page, 1) == ["渝U10841"]


def test_the_keyboard_alone_is_enough(visit, blurred):
    page = visit()
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        names.append(focused.get_attribute("aria-label") or focused.inner_text().split("\n")[0])
        assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        if names[-1] == "Drop a picture here":
            page.keyboard.press("Enter")
    examples = [f"Try an example: {kind}" for kind in (*EXAMPLES, "a blurred plate")]
    assert names == ["API", "Model", "Drop a picture here", "Use the camera", *examples]
    page.keyboard.press("Enter")
    assert readings(page, 1) == [blurred]
    assert [chooser.is_multiple() for chooser in choosers] == [True]


def fill(page: Page) -> None:
    """A reading, a refusal and a plate that was not there."""
    choose(page, FOLDER / "police.png", REPOSITORY / "LICENSE")
    example(page, "a blurred plate")
    readings(page, 3)


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit):
    page = visit(**PHONE)
    expect(page.get_by_role("button", name=re.compile("Choose a picture"))).to_be_visible()
    expect(page.locator("#facts dt").first).to_be_visible()
    assert page.evaluate(SCROLL_WIDTH) == 360
    fill(page)
    assert page.evaluate(SCROLL_WIDTH) == 360
    for button in page.get_by_role("button").all():
        assert button.bounding_box()["height"] >= 24  # WCAG 2.2, 2.5.8


def broken_rules(page: Page) -> list[str]:
    """What axe-core finds: rules of WCAG 2 and good practice, with the elements that break them."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("visitor", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_rules_of_accessibility_hold(visit, scheme, visitor):
    page = visit(**visitor, color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("#facts dt").first).to_be_visible()
    assert broken_rules(page) == []
    fill(page)
    assert broken_rules(page) == []
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"
    assert dark == (scheme == "dark")


QUAD = [[100, 100], [500, 140], [480, 260], [80, 220]]  # of the square of four colours
FAR = [[300, 20], [340, 20], [340, 30], [300, 30]]
TURNED = [[700, 500], [560, 480], [580, 420], [720, 440]]  # upside down


def answer(*boxes: list[list[float]], sure: float = 0.6) -> dict:
    """As a server with a finder answers on an image with plates there; the first is as sure as told.

    The last one of three has no text.
    """
    plates = [
        {
            "text": f"京A1234{5 + number}",
            "confidence": 0.99 if number else sure,
            "valid_format": True,
            "formats": ["cn-standard"],
            "characters": [{"char": char, "confidence": 0.99} for char in f"京A1234{5 + number}"],
            "candidates": [{"text": f"京A1234{5 + number}", "confidence": 0.99 if number else sure}],
            "box": box,
            "found": 0.98,
            "rows": 1 + number % 2,
            "colour": "yellow" if number else "blue",
            "cut": bool(number),
        }
        for number, box in enumerate(boxes)
    ]
    for plate in plates[2:]:
        plate |= {"text": "", "confidence": 0, "formats": [], "valid_format": False, "characters": []}
    note = None if plates else "No plate was found."
    times = ("decode", "find", "rectify", "preprocess", "queue", "inference", "postprocess", "total")
    return {
        "backend": "tiny",
        "model": {"variant": "tiny", "version": "1", "engine": "onnxruntime 1"},
        "results": [{"filename": "a.jpg", "plates": plates, "truncated": False, "note": note, "error": None}],
        "timing_ms": dict.fromkeys(times, 1.0) | {"preprocess": 0},
    }


def finding(page: Page) -> None:
    """Has the page's server say that it finds plates."""

    def respond(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | {"finds": True})

    page.route("**/model", respond)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph with one plate of four colours, in BGR: black and red above, green and blue below."""
    plate = np.zeros((100, 400, 3), np.uint8)
    plate[:50, 200:], plate[50:, :200], plate[50:, 200:] = (0, 0, 255), (0, 255, 0), (255, 0, 0)
    corners = np.array([[0, 0], [400, 0], [400, 100], [0, 100]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, np.array(QUAD, np.float32))
    scene = tmp_path_factory.mktemp("scene") / "street.png"
    cv2.imwrite(str(scene), cv2.warpPerspective(plate, matrix, (800, 600), borderValue=(90, 90, 90)))
    return scene


COLOURS = """canvas => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    return [0.25, 0.75].flatMap(y => [0.25, 0.75].map(x =>
        [...copy.getImageData(Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data.slice(0, 3)]
    ));
}"""


@pytest.mark.parametrize("visitor", [WIDE, PHONE], ids=["wide", "phone"])
def test_plates_are_drawn_on_their_photograph_and_each_is_shown_straight(visit, scene, visitor):
    page = visit(**visitor, reduced_motion="reduce")
    page.route("**/recognize*", lambda route: route.fulfill(json=answer(QUAD, TURNED, FAR)))
    choose(page, scene)
    labels = page.locator(".card .label")
    expect(labels).to_have_text(["京A12345 ?", "京A12346", "no text ?"])
    expect(page.get_by_role("status").first).to_have_text(
        "street.png has 3 plates: 京A12345, 60.0\xa0% sure; 京A12346, 99.0\xa0% sure; no text."
    )
    polygons = page.locator(".card polygon")
    assert [polygon.get_attribute("points") for polygon in polygons.all()] == [
        " ".join(f"{x},{y}" for x, y in box) for box in (QUAD, TURNED, FAR)
    ]
    dashed = [p.evaluate("element => getComputedStyle(element).strokeDasharray !== 'none'") for p in polygons.all()]
    assert dashed == [True, False, True]
    first, second, _ = page.locator(".zoom").all()
    assert first.evaluate(COLOURS) == [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert second.evaluate("canvas => canvas.width / canvas.height") == 2  # it has two rows
    canvas, drawing = page.locator(".picture canvas").bounding_box(), page.locator(".card svg").bounding_box()
    assert canvas == pytest.approx(drawing, abs=1)  # the outlines fit the picture, however large it is shown
    plate = page.locator(".plate").nth(1)
    plate.get_by_text("Details").click()
    facts = ["A plate", "Rows", "Colour", "Cut by the edge", "98.0\xa0% sure", "2", "yellow", "yes"]
    assert plate.locator(".looks dt, .looks dd").all_inner_texts() == [
        text for pair in zip(facts[:4], facts[4:], strict=True) for text in pair
    ]
    labels.nth(1).focus()
    page.keyboard.press("Enter")
    expect(plate).to_be_in_viewport()
    assert page.evaluate("() => document.querySelector('.plate:target h2').textContent") == "京A12346"
    assert page.evaluate(SCROLL_WIDTH) == page.viewport_size["width"]
    assert broken_rules(page) == []


def test_a_photograph_without_a_plate_has_a_note(visit, scene):
    page = visit()
    page.route("**/recognize*", lambda route: route.fulfill(json=answer()))
    choose(page, scene)
    assert readings(page, 1) == ["No plate"]
    sees(page, "No plate was found.")
    sees(page, "Take the picture from nearer")


def test_what_a_server_takes_is_told(visit):
    page = visit()
    sees(page, "One plate per image")
    page = visit()
    finding(page)
    page.reload()
    sees(page, "any number of plates")


def test_many_photographs_are_a_table_to_filter_copy_and_save(visit, scene, tmp_path):
    page = visit(**WIDE, permissions=["clipboard-read", "clipboard-write"])
    files = [tmp_path / f"{number}, {number}.png" for number in range(8)]
    for file in files:
        file.write_bytes(scene.read_bytes())
    answers = {file.name: answer(QUAD, TURNED, sure=0.5 if number == 3 else 0.95) for number, file in enumerate(files)}
    answers[files[5].name] = answer()

    def respond(route: Route) -> None:
        sent = route.request.post_data_buffer or b""
        route.fulfill(json=next(answers[name] for name in answers if f'"{name}"'.encode() in sent))

    page.route("**/recognize*", respond)
    choose(page, *files)
    rows = page.locator("#table tbody tr")
    expect(rows).to_have_count(15)
    expect(page.locator(".card").first).to_be_hidden()
    assert rows.nth(6).get_by_role("cell").all_inner_texts()[2:] == [
        "京A12345",
        "50.0\xa0%",
        "98.0\xa0%",
        "1",
        "blue",
        "",
    ]
    assert broken_rules(page) == []
    switch = page.get_by_role("switch", name="Unsure only")
    switch.focus()
    page.keyboard.press("Space")
    assert [row.get_by_role("rowheader").inner_text() for row in rows.all() if row.is_visible()] == [
        "3, 3.png",
        "5, 5.png",
    ]
    page.get_by_role("button", name="Copy the rows").click()
    expect(page.get_by_role("status").first).to_have_text("The rows are copied.")
    copied = page.evaluate("() => navigator.clipboard.readText()").splitlines()
    assert copied[0].split("\t") == list(COLUMNS)
    assert [line.split("\t")[:4] for line in copied[1:]] == [
        ["3, 3.png", "1", "京A12345", "0.5"],
        ["5, 5.png", "", "", ""],
    ]
    switch.uncheck()
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as CSV").click()
    with open(saving.value.path(), encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS
    assert len(table) == 15
    assert table[1] == {
        "file": "0, 0.png",
        "plate": "2",
        "text": "京A12346",
        "confidence": "0.99",
        "formats": "cn-standard",
        "valid_format": "True",
        "found": "0.98",
        "rows": "2",
        "colour": "yellow",
        "cut": "True",
        "corners": "700 500 560 480 580 420 720 440",
        "note": "",
        "error": "",
    }
    page.get_by_role("button", name="Show 5, 5.png").click()
    expect(page.locator(".card:focus")).to_contain_text("No plate was found.")
    page.get_by_role("button", name="Clear").click()
    expect(rows).to_have_count(0)


def test_the_documentation_needs_no_other_host(visit):
    page = visit("/docs")
    expect(page.get_by_text("Read the plates on images")).to_be_visible()


def test_all_variants_can_be_compared(visit):
    page = visit(**PHONE)
    example(page, "a blue plate")
    switch = page.get_by_role("switch", name="Compare all variants")
    switch.focus()
    page.keyboard.press("Space")
    rows = page.get_by_role("region", name="Comparison").locator("tbody tr")
    expect(page.get_by_text("Reading …")).to_have_count(0)
    assert [row.get_by_role("rowheader").inner_text() for row in rows.all()] == variants(PUBLISHED)
    engines = [row.get_by_role("cell").last.inner_text().split()[0] for row in rows.all()]
    assert engines == [read(PUBLISHED / name).manifest.backend for name in variants(PUBLISHED)]
    assert [row.get_by_role("cell").first.inner_text() for row in rows.all()] == [EXAMPLES["a blue plate"]] * len(
        engines
    )
    assert page.evaluate(SCROLL_WIDTH) == 360
    assert broken_rules(page) == []
    switch.uncheck()
    expect(rows.first).to_be_hidden()


def test_there_is_nothing_to_compare_where_no_request_may_choose(chromium):
    with running(Settings(threads=1, choice=False)) as url:
        page = chromium.new_page()
        page.goto(url)
        expect(page.locator("#facts")).to_contain_text(Settings().variant)
        expect(page.get_by_label("Compare all variants")).to_be_hidden()
        example(page, "a blue plate")
        expect(page.get_by_text("started with LPR_CHOICE=1")).to_be_visible()
        assert broken_rules(page) == []
        page.close()


def test_a_key_is_asked_for_once_and_kept_while_the_page_is_open(chromium):
    with running(Settings(threads=1, api_keys="a key of 20 letters.")) as url:
        page = chromium.new_page()
        answers, asked = [None, "wrong", "a key of 20 letters."], []

        def answer(dialog: Dialog) -> None:
            asked.append(dialog.message)
            given = answers.pop(0)
            dialog.dismiss() if given is None else dialog.accept(given)

        page.on("dialog", answer)
        page.goto(url)
        example(page, "a blue plate")
        sees(page, "This server wants an API key")
        assert len(asked) == 1
        page.get_by_role("button", name="Try again").click()  # the first key is wrong, so that it asks once more
        expect(page.locator(".characters")).to_be_visible()
        page.reload()
        choose(page, *(FOLDER / file for file, _ in SAMPLES))
        assert readings(page, len(SAMPLES)) == [text for _, text in SAMPLES]
        assert len(asked) == 3
        page.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a camera sees: the blue plate in the middle of its picture, where the frame stands."""
    picture = cv2.imread(str(served.STATIC / "examples" / "blue.jpg"))
    height, width = round(640 * 0.78 * 26 / 94), round(640 * 0.78)
    plate = cv2.resize(picture, (width, height))
    top, left = (480 - height) // 2, (640 - width) // 2
    scene = cv2.copyMakeBorder(
        plate, top, 480 - height - top, left, 640 - width - left, cv2.BORDER_CONSTANT, value=(90, 90, 90)
    )
    film = tmp_path_factory.mktemp("film") / "plate.mjpeg"
    film.write_bytes(cv2.imencode(".jpg", scene)[1].tobytes() * 30)
    return film


@pytest.fixture(scope="module")
def filmed(launch: Launch, film: Path) -> Browser:
    """A browser whose camera shows the film."""
    return launch(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    )


def test_the_camera_reads_what_its_frame_shows_until_it_is_closed(filmed, url):
    page = filmed.new_page()
    page.goto(url)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog", name="Fill the frame with one plate")).to_be_visible()
    expect(page.locator("#seen")).to_contain_text("云JJ5X61")
    page.get_by_role("button", name="Keep this picture").click()
    assert readings(page, 1) == ["云JJ5X61"]
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("() => document.getElementById('video').srcObject.active") is False  # the camera is off


def test_the_camera_sends_a_frame_once_the_one_before_was_answered(filmed, url):
    page = filmed.new_page()
    under_way: list[int] = []
    sizes: list[str] = []

    def respond(route: Route) -> None:
        under_way.append(1)
        assert len(under_way) == 1
        sizes.append(str(len(route.request.post_data_buffer or b"")))
        page.wait_for_timeout(50)
        under_way.pop()
        route.fulfill(json=answer(QUAD))

    page.route("**/recognize*", respond)
    finding(page)
    page.goto(url)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog", name="Point the camera at plates")).to_be_visible()
    expect(page.locator("#live .label")).to_have_text("京A12345 ?")  # over the live picture
    expect(page.locator("#live .unsure polygon")).to_have_count(1)
    while len(sizes) < 3:
        page.wait_for_timeout(20)
    page.get_by_role("button", name="Stop reading").click()
    page.wait_for_timeout(200)
    sent = len(sizes)
    page.wait_for_timeout(300)
    assert len(sizes) == sent
    page.get_by_role("button", name="Start reading").click()
    while len(sizes) == sent:
        page.wait_for_timeout(20)
    assert broken_rules(page) == []
    page.get_by_role("button", name="Close").click()
    page.close()


def test_a_camera_that_is_refused_or_missing_is_explained(launch, chromium, url):
    for browser, address, sentence in (
        (launch("--use-fake-device-for-media-stream"), url, "The camera was refused"),
        (chromium, url, "There is no camera on this device"),
        (
            launch("--host-resolver-rules=MAP lpr.test 127.0.0.1"),
            url.replace("127.0.0.1", "lpr.test"),
            "only over https",
        ),
    ):
        page = browser.new_page()
        page.goto(address)
        page.get_by_role("button", name="Use the camera").click()
        expect(page.get_by_role("alert")).to_contain_text(sentence)


def test_the_pages_allow_nothing_from_elsewhere(url):
    for path in ("/", "/docs"):
        policy = httpx.get(url + path).headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "http" not in policy
    assert "unsafe" not in httpx.get(url).headers["content-security-policy"]
    script = httpx.get(f"{url}/static/page.js")
    assert (script.headers["x-content-type-options"], script.headers["cache-control"]) == ("nosniff", "no-cache")
    again = httpx.get(f"{url}/static/page.js", headers={"If-None-Match": script.headers["etag"]})
    assert again.status_code == 304
    assert httpx.get(f"{url}/static/nothing.js").headers["content-type"] == "application/problem+json"
