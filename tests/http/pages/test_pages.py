"""The page at `/` and the documentation at `/docs`, in a real Chromium without a window (Debian's)."""

import re

import cv2
import httpx
import numpy as np
import pytest

from service.artifact import read, readers
from service.http import pages as served
from service.settings import REPOSITORY, Settings

pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright: make test")
from playwright.sync_api import Dialog, FileChooser, Page, expect

from tests.support.artifacts import PUBLISHED
from tests.support.pages import (
    PHONE,
    SCROLL_WIDTH,
    WIDE,
    broken_rules,
    choose,
    example,
    readings,
    sees,
)
from tests.support.samples import FOLDER, SAMPLES
from tests.support.servers import running

pytestmark = pytest.mark.slow

EXAMPLES = {"a blue plate": "云JJ5X61", "a green plate": "新NB88079", "a yellow plate": "豫UU4ZPP"}


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
    """Not as a box, as a character is that nothing has. `visit` sees whether the font came from elsewhere."""
    page = visit()
    example(page, "a blue plate")
    readings(page, 1)
    page.wait_for_function("() => [...document.fonts].every(font => font.status === 'loaded')")
    province = page.locator(".char").first
    shown = province.screenshot()
    province.evaluate("element => { element.textContent = '\\u4e02'; }")
    assert province.screenshot() != shown
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
    assert [row.get_by_role("rowheader").inner_text() for row in rows.all()] == readers(PUBLISHED)
    engines = [row.get_by_role("cell").last.inner_text().split()[0] for row in rows.all()]
    assert engines == [read(PUBLISHED / name).manifest.backend for name in readers(PUBLISHED)]
    assert [row.get_by_role("cell").first.inner_text() for row in rows.all()] == [EXAMPLES["a blue plate"]] * len(
        engines
    )
    assert page.evaluate(SCROLL_WIDTH) == 360
    assert broken_rules(page) == []
    switch.uncheck()
    expect(rows.first).to_be_hidden()


def test_there_is_nothing_to_compare_where_no_request_may_choose(chromium):
    with running(Settings(threads=1, finder=None, choice=False)) as url:
        page = chromium.new_page()
        page.goto(url)
        expect(page.locator("#facts")).to_contain_text(Settings().variant)
        expect(page.get_by_label("Compare all variants")).to_be_hidden()
        example(page, "a blue plate")
        expect(page.get_by_text("started with LPR_CHOICE=1")).to_be_visible()
        assert broken_rules(page) == []
        page.close()


def test_a_key_is_asked_for_once_and_kept_while_the_page_is_open(chromium):
    with running(Settings(threads=1, finder=None, api_keys="a key of 20 letters.")) as url:
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
