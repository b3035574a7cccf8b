"""Plates whose characters have fixed places, as those of China, drawn flat as coverage masks."""

import random

import cv2
import numpy as np

from model_builder.plates import glyphs
from model_builder.plates.kinds import PROVINCES, SPECIAL, Plate, Slot
from model_builder.plates.typefaces import Typefaces
from model_builder.render.plate_art import Art, Canvas, Image
from model_builder.render.plate_letters import bend

CJK = frozenset(PROVINCES + SPECIAL)
_GLYPH_SCALE, _BORDER = 0.8, 4.0  # pixels per mm of a character's mask, and mm around its cell
_LIGHTEST, _STEP, _WEIGHTS = 0.55, 0.1, 11  # pens from 0.55 to 1.55 of a glyph's own width
_BENDS = 12  # different bends kept per character and pen


class Slotted:
    """Draws such plates. Masks of characters are kept."""

    def __init__(self, typefaces: Typefaces | None) -> None:
        self.glyphs = glyphs.load()
        self.typefaces = typefaces
        self._masks: dict[tuple[str, int, int], Image] = {}

    def art(self, rng: random.Random, plate: Plate, text: str) -> Art:
        canvas = Canvas(plate, plate.width, plate.height)
        ink, body, extra = (np.zeros(canvas.size, np.uint8) for _ in range(3))
        canvas.rectangle(body, (0, 0, plate.width, plate.height), 255)
        style = _Lettering(rng)
        for character, slot in zip(text, plate.slots, strict=True):
            self._character(rng, canvas, ink, character, slot, style)
        if plate.dot and rng.random() < 0.9:
            canvas.disc(ink, *plate.dot, rng.uniform(4, 6.5), 255)
        if rng.random() < plate.frame:  # the painted border line
            inset, line = rng.uniform(3, 9), rng.uniform(1.2, 4)
            box = inset, inset, plate.width - 2 * inset, plate.height - 2 * inset
            canvas.rectangle(ink, box, rng.choice((255, 255, 180, 110)), line)
        return Art(canvas, ink, body, extra, None, rng.choice(plate.colours), _split(plate))

    def _character(
        self, rng: random.Random, canvas: Canvas, ink: Image, character: str, slot: Slot, style: "_Lettering"
    ) -> None:
        """Draw one character into its slot: our strokes, slightly bent, or the form of a typeface."""
        chinese = character in CJK
        height = slot.height * (style.chinese_height if chinese else style.height)
        width = slot.width * (style.chinese_width if chinese else style.width) * rng.uniform(0.97, 1.03)
        left = slot.x + (slot.width - width) / 2 + rng.gauss(0, 0.7)
        top = slot.y + (slot.height - height) / 2 + rng.gauss(0, 0.8) + (style.chinese_drop if chinese else 0)
        share = style.typeface_chinese if chinese else style.typeface_latin
        if self.typefaces is not None and share is not None:
            mask = self.typefaces.mask(character, share)
            if mask is not None:
                free = 0.06 if chinese else 0.0  # the share of the cell that our own forms leave free
                box = left + free * width, top + free * height, (1 - 2 * free) * width, (1 - 2 * free) * height
                canvas.paste(ink, mask, box)
                return
        weight = style.weight * (style.chinese_weight if chinese else 1.0)
        step = min(max(round((weight - _LIGHTEST) / _STEP), 0), _WEIGHTS - 1)
        mask = self._stroked(character, step, rng.randrange(_BENDS))
        border_x, border_y = width * _BORDER / glyphs.CELL_WIDTH, height * _BORDER / glyphs.CELL_HEIGHT
        canvas.paste(ink, mask, (left - border_x, top - border_y, width + 2 * border_x, height + 2 * border_y))

    def _stroked(self, character: str, step: int, variant: int) -> Image:
        """One of our own forms, slightly bent, painted with a pen of the given weight; cached."""
        key = character, step, variant
        mask = self._masks.get(key)
        if mask is None:
            rng = random.Random(f"{character}{step}.{variant}")
            form = self.glyphs[character][variant % len(self.glyphs[character])]
            points = bend(rng, np.concatenate(form.strokes), 1.6 if character in CJK else 1.3)
            strokes = tuple(np.split(points, np.cumsum([len(stroke) for stroke in form.strokes[:-1]])))
            width = form.width * (_LIGHTEST + _STEP * step)
            large = glyphs.rasterize(strokes, width, 4 * _GLYPH_SCALE, _BORDER)
            size = round(large.shape[1] / 4), round(large.shape[0] / 4)
            mask = self._masks[key] = np.asarray(cv2.resize(large, size, interpolation=cv2.INTER_AREA), np.uint8)
        return mask


def _split(plate: Plate) -> float:
    """Where the rows part, in heights of the plate; 0 of one row."""
    if plate.rows == 1:
        return 0.0
    upper = min(plate.slots, key=lambda slot: slot.y)
    return (upper.y + upper.height + max(slot.y for slot in plate.slots)) / 2 / plate.height


class _Lettering:
    """Properties that all characters of one plate share: proportions, weight of the strokes, typeface."""

    def __init__(self, rng: random.Random) -> None:
        self.weight = rng.choice((rng.uniform(0.8, 1.2), rng.uniform(0.6, 1.45)))
        self.height, self.width = rng.uniform(0.94, 1.03), rng.uniform(0.92, 1.05)
        # Our forms leave an eighth of the cell free. On real plates a Chinese character is 80 to 100 % as high as a
        # letter, most are above 90 %; it is as wide or a little wider, and covers the same area.
        self.chinese_height, self.chinese_width = rng.uniform(0.93, 1.18), rng.uniform(0.92, 1.14)
        self.chinese_weight = rng.uniform(0.85, 1.45)
        self.chinese_drop = rng.gauss(0, 1.5)
        self.typeface_latin = rng.random() if rng.random() < 0.06 else None
        self.typeface_chinese = rng.random() if rng.random() < 0.12 else None
