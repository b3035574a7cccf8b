"""The page with a camera: a film in its place."""

from pathlib import Path

import cv2
import pytest

from service.http import pages as served
from tests.http.pages.conftest import Launch

pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright: make test")
from playwright.sync_api import Browser, Route, expect

from tests.support.pages import QUAD, answer, broken_rules, finding, readings

pytestmark = pytest.mark.slow


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
    page.unroute_all(behavior="wait")  # an answer may be under way
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
