"""Letters of plates that set their characters side by side, and lines of words: coverage masks, cached."""

import functools
import random
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates import glyphs
from model_builder.plates.typefaces import Typefaces

Mask = NDArray[np.uint8]
Points = NDArray[Any]

HEIGHT: Final = 72  # pixels of a character's mask
_UNITS: Final = 90.0  # units of a character's height, those of the glyphs
_INSET: Final = 1.5  # units around the strokes, within which they are bent
_PENS: Final = (0.66, 0.8, 0.92, 1.02, 1.14, 1.34)  # of a face's pen
_BENDS: Final = 2
_RATIO: Final = 0.1  # steps of a character's width to its height
_TYPEFACE: Final = 0.35  # how often a typeface is taken instead of our strokes


class Lettering:
    """The lettering of one plate: our strokes in one of the plate's faces, or a typeface."""

    def __init__(self, rng: random.Random, faces: Sequence[str], typefaces: Typefaces | None) -> None:
        self._rng, self._typefaces = rng, typefaces
        self._face = rng.choice(faces)
        self._choice = rng.random() if typefaces and typefaces.world and rng.random() < _TYPEFACE else None
        self._form, self._fixed = rng.randrange(12), rng.random() < 0.3
        self._pen = rng.choice((rng.randrange(2, 5), rng.randrange(len(_PENS))))

    def mask(self, character: str, ratio: float) -> tuple[Mask, float]:
        """Coverage (72, w) of a character, and its width as a share of the width of most characters.

        `ratio` is the width of most characters to their height.
        """
        if self._choice is not None and self._typefaces is not None and character.isascii():
            mask = self._typefaces.letter(character, self._choice)
            widest = self._typefaces.letter("8", self._choice)
            if mask is not None and widest is not None:
                return mask, min(mask.shape[1] / widest.shape[1], 1.35)
        steps = max(round(ratio / _RATIO), 3)
        form = self._form % len(glyphs.face(self._face).forms[character])
        mask = _stroked(self._face, character, form, self._pen, steps, self._rng.randrange(_BENDS))
        share = mask.shape[1] / (HEIGHT * steps * _RATIO)
        return (_centred(mask, share), 1.0) if self._fixed and share < 0.75 else (mask, share)


def _centred(mask: Mask, share: float) -> Mask:
    """A narrow character in the middle of a cell of the width that most have."""
    free = round(mask.shape[1] * (1 / share - 1) / 2)
    return np.pad(mask, ((0, 0), (free, free)))


@functools.lru_cache(40_000)
def _stroked(face: str, character: str, form: int, pen: int, steps: int, variant: int) -> Mask:
    """Our own form of a character, slightly bent."""
    lettering = glyphs.face(face)
    strokes = lettering.forms[character][form]
    points = bend(random.Random(f"{character}{variant}"), np.concatenate(strokes), 1.0)
    left, right = points[:, 0].min(), points[:, 0].max()
    width = lettering.pen * _PENS[pen]
    span = min((right - left) / 34, 1.0)  # a bar has none
    cell = width + span * (steps * _RATIO * _UNITS - width)
    free = width / 2 + _INSET
    x = (
        free + (points[:, 0] - left) / max(right - left, 1e-3) * (cell - width)
        if span > 0.1
        else 0 * points[:, 0] + cell / 2
    )
    y = free + (points[:, 1] - 4.5) / 81 * (_UNITS - 2 * free)
    scale = HEIGHT / _UNITS
    placed = np.stack((x, y), 1) * (2 * scale * 16)
    lines = np.split(np.round(placed).astype(np.int32), np.cumsum([len(stroke) for stroke in strokes[:-1]]))
    size = max(4, round((cell + 2 * _INSET) * scale))
    large = np.zeros((2 * HEIGHT, 2 * size), np.uint8)
    cv2.polylines(large, lines, False, 255, max(1, round(width * scale * 2)), cv2.LINE_AA, shift=4)
    return np.asarray(cv2.resize(large, (size, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def bend(rng: random.Random, points: Points, strength: float) -> Points:
    """Smoothly displaced points of a character. Strokes that meet still meet."""
    x, y = points[:, 0], points[:, 1]
    wave_x = np.sin(x * rng.uniform(-0.09, 0.09) + y * rng.uniform(-0.05, 0.05) + rng.uniform(0, 2 * np.pi))
    wave_y = np.sin(x * rng.uniform(-0.09, 0.09) + y * rng.uniform(-0.05, 0.05) + rng.uniform(0, 2 * np.pi))
    dx = rng.gauss(0, strength * 0.7) * wave_x + rng.gauss(0, 0.015) * (45 - y)
    return np.stack((x + dx, y + rng.gauss(0, strength * 1.2) * wave_y), 1)


def line(rng: random.Random, text: str, typefaces: Typefaces | None) -> Mask:
    """Coverage of a line of words, its ink from edge to edge."""
    if typefaces is not None and rng.random() < 0.8:
        mask = typefaces.line(text, rng.random())
        if mask is not None:
            return mask
    return _drawn(text.upper(), rng.randrange(3))


@functools.lru_cache(4000)
def _drawn(text: str, pen: int) -> Mask:
    """A line in our own strokes; a character without any is a space."""
    forms = glyphs.face("plain").forms
    parts = [_stroked("plain", letter, 0, 1 + 2 * pen, 6, 0) if letter in forms else _space() for letter in text]
    joined = np.hstack([np.pad(part, ((0, 0), (0, 9))) for part in parts])
    return np.asarray(cv2.resize(joined, None, fx=0.33, fy=0.33, interpolation=cv2.INTER_AREA), np.uint8)


def _space() -> Mask:
    return np.zeros((HEIGHT, 14), np.uint8)
