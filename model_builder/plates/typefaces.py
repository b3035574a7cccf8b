"""Installed typefaces, which add variety to the renderer's own strokes in training.

They are optional, and none is in the repository; `make extras` installs them from Debian. Without them the renderer
uses its strokes only.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
CHINESE = (
    ("wqy-zenhei.ttc", 0),
    ("wqy-microhei.ttc", 0),
    ("NotoSansCJK-Regular.ttc", 2),
    ("NotoSansCJK-Bold.ttc", 2),
    ("NotoSerifCJK-Bold.ttc", 2),
)
LATIN = (  # on Chinese plates
    ("DejaVuSansCondensed.ttf", 0),
    ("DejaVuSansCondensed-Bold.ttf", 0),
    ("DejaVuSans-Bold.ttf", 0),
    ("LiberationSansNarrow-Regular.ttf", 0),
    ("LiberationSansNarrow-Bold.ttf", 0),
    ("LiberationSans-Regular.ttf", 0),
    ("LiberationSans-Bold.ttf", 0),
    ("wqy-zenhei.ttc", 0),
    ("NotoSansCJK-Regular.ttc", 2),
    ("NotoSansCJK-Bold.ttc", 2),
)
WORLD = (  # on other plates; without DejaVu, whose J hangs below the base line: at full height it is an I with a hook
    *LATIN[3:7],
    ("RG2014B.ttf", 0),
    ("RG2014C.ttf", 0),
    ("RG2014D.ttf", 0),
    ("RG2014E.ttf", 0),
    ("RG2014EM.ttf", 0),
    ("RG2014F.ttf", 0),
    ("OSP-DIN.ttf", 0),
    ("BebasNeue-Regular.otf", 0),
    ("BebasNeue-Bold.otf", 0),
    ("BebasNeue-Book.otf", 0),
    ("routed-gothic.ttf", 0),
    ("routed-gothic-narrow.ttf", 0),
    ("routed-gothic-wide.ttf", 0),
    ("NationalPark-Heavy.otf", 0),
    ("barlow-condensed-latin-500-normal.woff", 0),
    ("barlow-condensed-latin-700-normal.woff", 0),
    ("saira-condensed-latin-500-normal.woff", 0),
    ("saira-condensed-latin-700-normal.woff", 0),
    ("overpass-latin-600-normal.woff", 0),
    ("oswald-latin-400-normal.woff", 0),
    ("oswald-latin-600-normal.woff", 0),
    ("roboto-condensed-latin-500-normal.woff", 0),
    ("roboto-condensed-latin-700-normal.woff", 0),
    ("share-tech-latin-400-normal.woff", 0),
    ("b612-latin-700-normal.woff", 0),
)
WORDS = (  # of names and slogans
    *LATIN[:3],
    *WORLD,
    ("LiberationSerif-Regular.ttf", 0),
    ("LiberationSerif-Bold.ttf", 0),
    ("LiberationSerif-BoldItalic.ttf", 0),
    ("LiberationSans-Italic.ttf", 0),
    ("DejaVuSerif-Bold.ttf", 0),
)
_SIZE = 96
_LINE = 28  # size of lines of words in pixels
_EACH = 5  # typefaces that a line is drawn in
_TYPES = (".ttf", ".ttc", ".otf", ".woff")


def _installed(names: tuple[tuple[str, int], ...], folders: Sequence[Path]) -> list[tuple[Path, int]]:
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*"))]
    found = {path.name: path for path in files if path.suffix in _TYPES}
    return [(found[name], index) for name, index in names if name in found]


class Typefaces:
    """Masks of characters in the typefaces that are installed or lie in `folders`."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        within = (*_FOLDERS, *folders)
        self.chinese, self.latin = _installed(CHINESE, within), _installed(LATIN, within)
        self.world, self.words = _installed(WORLD, within), _installed(WORDS, within)

    def mask(self, character: str, choice: float) -> NDArray[np.uint8] | None:
        """Coverage of the bounding box of the character, uint8 (h, w); None where no typeface is installed.

        `choice` (0..1) chooses among the installed typefaces.
        """
        faces = self.latin if character.isascii() else self.chinese
        if not faces:
            return None
        path, index = faces[int(choice * len(faces))]
        return _mask(character, path, index)

    def letter(self, character: str, choice: float) -> NDArray[np.uint8] | None:
        """Coverage of a Latin character in its own width, uint8 (72, w); None as `mask`."""
        return _letter(character, *self.world[int(choice * len(self.world))]) if self.world else None

    def line(self, text: str, choice: float) -> NDArray[np.uint8] | None:
        """Coverage of a line of words, uint8 (h, w), its ink from edge to edge; None as `mask`."""
        if not self.words:
            return None
        first = sum(map(ord, text))  # a few typefaces for each text, so that most lines were drawn before
        return _line(text, *self.words[(first + 5 * int(choice * _EACH)) % len(self.words)])


@functools.cache
def _mask(character: str, path: Path, index: int) -> NDArray[np.uint8]:
    image, (left, top, right, bottom) = _drawn(character, path, index, _SIZE)
    if character == "1":  # a narrow stroke must not be stretched over its slot
        middle, half = (left + right) / 2, (bottom - top) / 4
        left, right = round(middle - half), round(middle + half)
    return np.asarray(cv2.resize(image[top:bottom, left:right], (36, 72), interpolation=cv2.INTER_AREA), np.uint8)


@functools.cache
def _letter(character: str, path: Path, index: int) -> NDArray[np.uint8]:
    image, (left, top, right, bottom) = _drawn(character, path, index, _SIZE)
    width = max(4, round((right - left) * 72 / (bottom - top)))
    return np.asarray(cv2.resize(image[top:bottom, left:right], (width, 72), interpolation=cv2.INTER_AREA), np.uint8)


@functools.lru_cache(4000)
def _line(text: str, path: Path, index: int) -> NDArray[np.uint8]:
    image, (left, top, right, bottom) = _drawn(text, path, index, _LINE)
    return image[top:bottom, left:right].copy()


def _drawn(text: str, path: Path, index: int, size: int) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """An image of the text, and the box of its ink: left, top, right, bottom."""
    font = _font(path, size, index)
    image = Image.new("L", (size + size * len(text), 2 * size))
    ImageDraw.Draw(image).text((size // 2, size // 4), text, fill=255, font=font)
    box = image.getbbox()
    if box is None:
        raise ValueError(f"{path} draws nothing for {text!r}")
    return np.asarray(image, np.uint8), box


@functools.cache
def _font(path: Path, size: int, index: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size, index=index)
