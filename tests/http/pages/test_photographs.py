"""The page with the plates of photographs: drawn, straightened, in a table."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.client.cli import COLUMNS

pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright: make test")
from playwright.sync_api import Route, expect

from tests.support.pages import (
    FAR,
    PHONE,
    QUAD,
    SCROLL_WIDTH,
    TURNED,
    WIDE,
    answer,
    broken_rules,
    choose,
    finding,
    readings,
    sees,
)

pytestmark = pytest.mark.slow


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
    expect(labels).to_have_text(["京A12345 ?", "京A12346", "? A plate that is not legible"])
    expect(page.get_by_role("status").first).to_have_text(
        "street.png has 3 plates: 京A12345, 60.0\xa0% sure; 京A12346, 99.0\xa0% sure; 1 not legible."
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
    names = ["Country", "A plate", "Rows", "Colour", "Cut by the edge"]
    facts = ["cn, 100\xa0% sure", "98.0\xa0% sure", "2", "yellow", "yes"]
    assert plate.locator(".looks dt, .looks dd").all_inner_texts() == [
        text for pair in zip(names, facts, strict=True) for text in pair
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


def test_a_plate_that_fills_its_picture_needs_no_text_on_it_and_few_of_many_plates_are_spoken(visit, scene):
    page = visit()
    near = [[10, 10], [790, 10], [790, 590], [10, 590]]
    page.route("**/recognize*", lambda route: route.fulfill(json=answer(near, FAR, QUAD, TURNED, FAR, sure=0.95)))
    choose(page, scene)
    expect(page.locator(".card polygon")).to_have_count(5)
    expect(page.locator(".card .label")).to_have_count(4)
    expect(page.get_by_role("status").first).to_contain_text("has 5 plates: 京A12345, ")
    expect(page.get_by_role("status").first).to_contain_text("; 2 more.")


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
    answers[files[0].name]["results"][0]["plates"][1]["formats"] = ["cn-standard", "cn-police"]

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
        "formats": "cn-standard,cn-police",  # as `lpr read --csv` writes them
        "valid_format": "True",
        "found": "0.98",
        "rows": "2",
        "colour": "yellow",
        "cut": "True",
        "corners": "700 500 560 480 580 420 720 440",
        "note": "",
        "error": "",
        "region": "cn",
    }
    page.get_by_role("button", name="Show 5, 5.png").click()
    expect(page.locator(".card:focus")).to_contain_text("No plate was found.")
    page.get_by_role("button", name="Clear").click()
    expect(rows).to_have_count(0)
