"""The parts of the documents that a program writes: the table of settings, and the two pictures of the server.

`make docs` runs it. The pictures need Chromium (`make tools`).
"""

import base64
import os
import shutil
import sys
from html import escape
from pathlib import Path

import cv2
import httpx
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from model_builder.measure import blocks
from model_builder.measure.load.servers import ours, running
from model_builder.plates import webfont
from model_builder.render.scene import SceneRenderer
from service import bundled
from service.settings import PREFIX, REPOSITORY, ClientSettings, Settings, WatchSettings
from service.validators import Within

DOCS = REPOSITORY / "docs"
IMAGES = DOCS / "images"
SAMPLES = REPOSITORY / "tests" / "samples"
SHOWN = ("blue.png", "green.png", "yellow.png", "police.png", "blue-slanted.png")
ON_PAGE = 900_403  # seed of a rendered scene with two plates
STYLE = """
@font-face { font-family: strokes; src: url(data:font/woff;base64,%s) }
body { margin: 0; padding: 16px; font: 15px sans-serif, strokes; display: inline-flex; gap: 16px; background: #fff }
figure { margin: 0; text-align: center }
img { width: 188px; height: 48px; display: block; margin-bottom: 10px }
b { font-size: 22px; display: block; margin-bottom: 2px }
"""


def main() -> int:
    """Write the table, then the pictures."""
    blocks.put(DOCS / "settings.md", "docs", tables())
    pictures(IMAGES)
    return 0


def pictures(folder: Path) -> None:
    """Write both pictures, of a server of the default variant."""
    folder.mkdir(exist_ok=True)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium refuses to root
    variant = Settings.model_fields["variant"].default
    with running(ours(variant, finder=bundled.FINDER, threads="1")) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        picture_of_page(browser, server.url, folder / "page.png")
        picture_of_plates(browser, server.url, folder / "plates.png")
        browser.close()


def scene() -> bytes:
    """The picture that the page reads, as a JPEG."""
    image = SceneRenderer(china=1.0).scene(ON_PAGE, (640, 384)).image
    return cv2.imencode(".jpg", image)[1].tobytes()


def tables() -> str:
    """The settings of the server, and those of the command line."""
    read, watch = table(ClientSettings), table(WatchSettings)
    return (
        f"{table(Settings)}\n\n`lpr read` takes these from the environment:\n\n{read}\n\n"
        f"`lpr watch` takes these, and those of the server that name variants:\n\n{watch}"
    )


def table(settings: type[Settings] | type[ClientSettings] | type[WatchSettings]) -> str:
    """A row for each setting, in Markdown."""
    rows = [_row(name, field) for name, field in settings.model_fields.items()]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def _row(name: str, field: FieldInfo) -> str:
    bounds = [
        f" Allowed: {check.func}."
        for check in field.metadata
        if isinstance(check, AfterValidator) and isinstance(check.func, Within)
    ]
    return f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description}{''.join(bounds)} |"


def _default(field: FieldInfo) -> str:
    match field.default:
        case _ if field.default_factory:
            return "see its meaning"
        case None | ():
            return "none"
        case Path() as path:
            return f"`{path.relative_to(REPOSITORY)}/`"
        case value:
            return f"`{value}`"


def picture_of_page(browser: Browser, url: str, path: Path) -> None:
    """The page after it has read a plate."""
    page = browser.new_page(viewport={"width": 1100, "height": 720}, color_scheme="light", reduced_motion="reduce")
    page.goto(url)
    page.locator("#files").set_input_files({"name": "street.jpg", "mimeType": "image/jpeg", "buffer": scene()})
    expect(page.locator(".card:not([aria-busy])")).to_have_count(1, timeout=60_000)
    page.screenshot(path=path)
    page.close()
    with Image.open(path) as picture:  # the noise of a photograph takes 200 kB more in all its colours
        few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def picture_of_plates(browser: Browser, url: str, path: Path) -> None:
    """Five rendered plates, each over the text that was read and its confidence."""
    figures = []
    for name in SHOWN:
        image = {"image": (SAMPLES / name).read_bytes()}
        (plate,) = httpx.post(f"{url}/recognize", files=image).json()["results"][0]["plates"]
        source = f"data:image/png;base64,{_base64(SAMPLES / name)}"
        caption = f"<b>{escape(plate['text'])}</b>{100 * plate['confidence']:.2f} %"
        figures.append(f'<figure><img src="{source}"><figcaption>{caption}</figcaption></figure>')
    page = browser.new_page(viewport={"width": 1100, "height": 200})
    page.set_content(f"<style>{STYLE % _base64(webfont.FILE)}</style><body>{''.join(figures)}</body>")
    page.locator("body").screenshot(path=path)
    page.close()


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


if __name__ == "__main__":
    sys.exit(main())
