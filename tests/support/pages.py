"""What the tests of the page share: kinds of visitors, what they do and see, and answers of a server with a finder."""

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

expect.set_options(timeout=60_000)  # a variant that is compared has to be loaded first

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
SCROLL_WIDTH = "() => document.documentElement.scrollWidth"
WIDE = {"viewport": {"width": 1280, "height": 860}}
QUAD = [[100, 100], [500, 140], [480, 260], [80, 220]]  # of the square of four colours
FAR = [[300, 20], [340, 20], [340, 30], [300, 30]]
TURNED = [[700, 500], [560, 480], [580, 420], [720, 440]]  # upside down


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


def broken_rules(page: Page) -> list[str]:
    """What axe-core finds: rules of WCAG 2 and good practice, with the elements that break them."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


def answer(*boxes: list[list[float]], sure: float = 0.6) -> dict:
    """As a server with a finder answers on an image with plates there; the first is as sure as told.

    The third one has no text.
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
            "region": {"code": "cn", "probability": 1.0},
        }
        for number, box in enumerate(boxes)
    ]
    for plate in plates[2:3]:
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
