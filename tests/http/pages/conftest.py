"""A server, and a real Chromium without a window (Debian's) that visits its page."""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from service.settings import Settings
from tests.support.processes import program
from tests.support.servers import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

Launch = Callable[..., "Browser"]
Visit = Callable[..., "Page"]


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    """The server of the default variant, for crops: what it finds on photographs is in answers that tests have."""
    with running(Settings(threads=1, finder=None)) as url:
        yield url


@pytest.fixture(scope="package")
def launch() -> Iterator[Launch]:
    """Starts a Chromium with the given switches."""
    from playwright.sync_api import sync_playwright  # the modules of the tests are skipped without it

    chromium = program("chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium refuses to root
    with sync_playwright() as driver:
        browsers: list[Browser] = []

        def launch(*switches: str) -> "Browser":
            browsers.append(driver.chromium.launch(executable_path=chromium, args=[*sandbox, *switches]))
            return browsers[-1]

        yield launch
        for browser in browsers:
            browser.close()


@pytest.fixture(scope="package")
def chromium(launch: Launch) -> "Browser":
    return launch()


@pytest.fixture
def visit(chromium: "Browser", url: str) -> Iterator[Visit]:
    """Opens the page as a kind of visitor, and in the end checks that it asked nobody else and logged no error."""
    contexts: list[BrowserContext] = []
    asked: list[str] = []
    said: list[str] = []

    def visit(path: str = "/", **visitor: object) -> "Page":
        contexts.append(chromium.new_context(**(visitor or {"viewport": {"width": 1280, "height": 860}})))
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
