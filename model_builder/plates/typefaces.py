"""Installed typefaces, which add variety to the renderer's own strokes in training.

They are optional, and none is in the repository; `make extras` installs them from Debian. Without them the renderer
uses its strokes only.
"""

import functools
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
LATIN = (
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
_SIZE = 96


def _installed(names: tuple[tuple[str, int], ...]) -> list[tuple[Path, int]]:
    found = {path.name: path for folder in _FOLDERS if folder.is_dir() for path in sorted(folder.rglob("*.tt[cf]"))}
    return [(found[name], index) for name, index in names if name in found]


class Typefaces:
    """Masks of characters in the installed typefaces."""

    def __init__(self) -> None:
        self.chinese, self.latin = _installed(CHINESE), _installed(LATIN)

    def mask(self, character: str, choice: float) -> NDArray[np.uint8] | None:
        """Coverage of the bounding box of the character, uint8 (h, w); None where no typeface is installed.

        `choice` (0..1) chooses among the installed typefaces.
        """
        faces = self.latin if character.isascii() else self.chinese
        if not faces:
            return None
        path, index = faces[int(choice * len(faces))]
        return _mask(character, path, index)


@functools.cache
def _mask(character: str, path: Path, index: int) -> NDArray[np.uint8]:
    font = ImageFont.truetype(str(path), _SIZE, index=index)
    image = Image.new("L", (2 * _SIZE, 2 * _SIZE))
    ImageDraw.Draw(image).text((_SIZE // 2, _SIZE // 4), character, fill=255, font=font)
    box = image.getbbox()
    if box is None:
        raise ValueError(f"{path} draws nothing for {character!r}")
    left, top, right, bottom = box
    if character == "1":  # a narrow stroke must not be stretched over its slot
        middle, half = (left + right) / 2, (bottom - top) / 4
        left, right = round(middle - half), round(middle + half)
    patch = np.asarray(image, np.uint8)[top:bottom, left:right]
    return np.asarray(cv2.resize(patch, (36, 72), interpolation=cv2.INTER_AREA), np.uint8)
