"""Lines of lettering for scenes: signs, shops, time stamps, watermarks, slogans. They are not to be found."""

import functools
import random
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model_builder.plates.kinds import PROVINCES, SPECIAL

Pixels = NDArray[np.uint8]

COUNT = 600  # different lines
_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
_SIZE = 32  # pixels
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CHINESE = (
    PROVINCES
    + SPECIAL
    + "大小中国人民路街店停车场出口入口安全公司商品欢迎光临请勿禁止通行年月日星期一二三四五六七八九十"
)
_HERSHEY = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
_CJK_FACES = ("wqy", "noto", "cjk")


class Lines:
    """Masks of `COUNT` lines, each drawn once, in the typefaces of the folders given beside those installed."""

    def __init__(self, *folders: Path) -> None:
        found = [path for folder in (*_FOLDERS, *folders) if folder.is_dir() for path in sorted(folder.rglob("*"))]
        self.faces = [path for path in found if path.suffix in (".ttf", ".ttc", ".otf")]
        self._drawn = functools.cache(self._line)

    def draw(self, rng: random.Random) -> Pixels:
        """Coverage of a line, uint8 (H, W), its ink from edge to edge."""
        return self._drawn(rng.randrange(COUNT))

    def _line(self, number: int) -> Pixels:
        rng = random.Random(f"line {number}")
        if not self.faces or rng.random() < 0.2:
            return _hershey(rng)
        face = rng.choice(self.faces)
        chinese = any(part in face.name.lower() for part in _CJK_FACES) and rng.random() < 0.7
        text = "".join(rng.choices(_CHINESE, k=rng.randint(2, 9))) if chinese else words(rng)
        return _typeset(text, face)


def words(rng: random.Random) -> str:
    """What stands on signs, in shops and on stamps of time: never as short as a registration in capitals."""
    kind = rng.random()
    if kind < 0.25:
        date = f"20{rng.randint(10, 29)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        return f"{date} {rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
    if kind < 0.4:
        return f"{rng.choice(('Tel', 'www', 'No', 'P', 'km', 'CAM'))} {rng.randint(0, 10 ** rng.randint(3, 10))}"
    found = ["".join(rng.choices(_LETTERS, k=rng.randint(2, 10))) for _ in range(rng.randint(1, 3))]
    case = rng.random()
    if case < 0.4:
        return " ".join(word.capitalize() for word in found)
    return " ".join(found) if case < 0.6 else " ".join(found).upper()


def _typeset(text: str, face: Path) -> Pixels:
    font = ImageFont.truetype(str(face), _SIZE)
    left, top, right, bottom = (round(value) for value in font.getbbox(text))
    image = Image.new("L", (max(right - left, 1) + 4, max(bottom - top, 1) + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), text, fill=255, font=font)
    return np.asarray(image, np.uint8)


def _hershey(rng: random.Random) -> Pixels:
    text, face, line = words(rng), rng.choice(_HERSHEY), rng.randint(1, 3)
    (width, height), base = cv2.getTextSize(text, face, 1.0, line)
    mask = np.zeros((height + base + 4, width + 4), np.uint8)
    cv2.putText(mask, text, (2, height + 2), face, 1.0, 255, line, cv2.LINE_AA)
    return mask
