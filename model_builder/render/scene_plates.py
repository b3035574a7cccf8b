"""Flat plates to be put into scenes: kinds of `plates.PLATES`, and made-up Latin ones for all other countries.

Those of China are drawn here, the other kinds by `plate_art`. A finder learns what a plate looks like from afar, so
exact letterforms matter little here; shapes, rows, colours, bands, stickers and lettering beside the number matter
more.
"""

import functools
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates import glyphs
from model_builder.plates.kinds import CHINA, DIGITS, PALETTE, PLATES, PROVINCES, SPECIAL, Plate
from model_builder.plates.patterns import parse
from model_builder.plates.typefaces import Typefaces
from model_builder.render import plate_art
from model_builder.render.plate import draw_text
from model_builder.render.scene_text import Lines

Pixels = NDArray[np.uint8]
Colour = tuple[float, float, float]  # BGR, 0..255
Box = tuple[float, float, float, float]  # left, top, width, height in mm

LENGTH = 256  # pixels of a plate's width
_PENS = 5  # that characters are drawn with
COLOURS = ("blue", "yellow", "green", "white", "black", "red", "other")
_LATIN = DIGITS + "ABCDEFGHJKLMNOPQRSTUVWXYZ"  # our strokes have no I
_CJK = frozenset(PROVINCES + SPECIAL)
_WHITE, _BLACK, _BLUE, _RED = (238, 240, 240), (28, 26, 26), (150, 60, 20), (40, 30, 190)
_YELLOW, _GREEN = (30, 190, 240), (70, 120, 30)
PAINTS: tuple[Colour, ...] = ((240, 240, 240), (30, 30, 30), _BLUE, _RED, _YELLOW, _GREEN, (30, 120, 240))
_PAINTS: tuple[tuple[str, Colour, Colour, float], ...] = (  # name, paper, ink, share
    ("white", _WHITE, _BLACK, 10),
    ("white", _WHITE, _BLUE, 3),
    ("white", _WHITE, _RED, 1.5),
    ("white", _WHITE, _GREEN, 1.5),
    ("yellow", _YELLOW, _BLACK, 3),
    ("yellow", _YELLOW, _RED, 0.5),
    ("black", _BLACK, _WHITE, 1.5),
    ("black", _BLACK, (60, 190, 220), 0.5),
    ("blue", (165, 75, 20), _WHITE, 1.5),
    ("blue", (165, 75, 20), _YELLOW, 0.5),
    ("green", _GREEN, _WHITE, 1),
    ("red", _RED, _WHITE, 1),
    ("other", (205, 200, 195), _BLACK, 2),
    ("other", (225, 225, 190), (110, 50, 20), 1),
    ("other", (190, 215, 235), (60, 30, 120), 1),
)
_CALLED = {  # papers of kinds by their names in PALETTE; all others are "other"
    "white": "white",
    "black": "black",
    "red": "red",
    "maroon": "red",
    "blue": "blue",
    "light-blue": "blue",
    "navy": "blue",
    "yellow": "yellow",
    "gold": "yellow",
    "pale-green": "green",
    "energy-green": "green",
    "dull-green": "green",
    "green": "green",
}
_NAMES = {PALETTE[paper]: name for paper, name in _CALLED.items()}
_KNOWN = 0.65  # share of a country's kinds among plates that are not Chinese; the others are made up
# width and height in mm of the world's plates, and how often each is drawn
_SHAPES: tuple[tuple[float, float, float], ...] = (
    (520, 110, 6),
    (440, 120, 1),
    (400, 130, 2),
    (372, 134, 1),
    (340, 110, 1),
    (305, 152, 5),
    (330, 165, 1.5),
    (300, 160, 1),
    (340, 200, 1.5),
    (280, 200, 1),
    (240, 200, 0.7),
    (200, 160, 0.7),
    (180, 180, 0.7),
    (190, 140, 0.7),
)


class Art(NamedTuple):
    """A plate seen straight on: BGR uint8 (H, LENGTH, 3), its opacity uint8 (H, LENGTH), its size in mm, and what it
    is: number of rows, colour (one of COLOURS), name of the kind."""

    image: Pixels
    opacity: Pixels
    size: tuple[float, float]
    rows: int
    colour: str
    kind: str


class _Sheet:
    """An image to draw on, in mm."""

    def __init__(self, width: float, height: float, paper: Colour) -> None:
        self.scale = LENGTH / width
        self.width, self.height = width, height
        self.image = np.empty((max(8, round(height * self.scale)), LENGTH, 3), np.uint8)
        self.image[:] = paper

    def point(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self.scale * 16), round(y * self.scale * 16)

    def box(self, box: Box, colour: Colour, line: float = 0) -> None:
        """A rectangle, filled or as a line of so many mm."""
        thickness = max(1, round(line * self.scale)) if line else -1
        left, top, width, height = box
        corners = self.point(left, top), self.point(left + width, top + height)
        cv2.rectangle(self.image, *corners, colour, thickness, cv2.LINE_AA, 4)

    def disc(self, x: float, y: float, radius: float, colour: Colour, line: float = 0) -> None:
        thickness = max(1, round(line * self.scale)) if line else -1
        size = max(8, round(radius * self.scale * 16))
        cv2.circle(self.image, self.point(x, y), size, colour, thickness, cv2.LINE_AA, 4)

    def stamp(self, mask: Pixels, box: Box, colour: Colour, strength: float = 1.0) -> None:
        """Paint through a mask that is stretched over the box."""
        left, top, width, height = (round(value * self.scale) for value in box)
        width, height = max(2, width), max(2, height)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, LENGTH), min(top + height, len(self.image))
        if x0 >= x1 or y0 >= y1:
            return
        shrinks = mask.shape[0] > height and mask.shape[1] > width
        patch = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        alpha = patch[y0 - top : y1 - top, x0 - left : x1 - left, None] * np.float32(strength / 255)
        under = self.image[y0:y1, x0:x1]
        under[:] = under + (np.array(colour, np.float32) - under) * alpha


class PlateArtist:
    """Draws plates. `lines` give the lettering beside a made-up number; kinds are set in `typefaces`, if there are any,
    and in our own strokes."""

    def __init__(self, lines: Lines, china: float = 0.5, typefaces: Typefaces | None = None) -> None:
        self.lines, self.china, self.typefaces = lines, china, typefaces

    def draw(self, rng: random.Random) -> Art:
        """A plate: of China with the share `china`, else one of the world."""
        if rng.random() < self.china:
            return _chinese(rng, rng.choices(CHINA, [_share(plate) for plate in CHINA])[0])
        if rng.random() < _KNOWN:
            return self._known(rng, rng.choices(_WORLD, _WORLD_SHARES)[0])
        return self._latin(rng)

    def _known(self, rng: random.Random, plate: Plate) -> Art:
        """A plate of a country's kind."""
        colours = rng.choice(plate.colours)
        drawing = plate_art.Drawing(rng, plate._replace(colours=(colours,)), plate.draw(rng), self.typefaces)
        sheet = _Sheet(drawing.width, drawing.height, colours.top)
        height, width = sheet.image.shape[:2]
        sheet.image = np.asarray(cv2.resize(_printed(drawing), (width, height)), np.uint8)
        return _finished(rng, sheet, plate.rows, _name(colours.top), plate.name)

    def _latin(self, rng: random.Random) -> Art:
        width, height = _shape(rng)
        name, paper, ink, _ = rng.choices(_PAINTS, [paint[3] for paint in _PAINTS])[0]
        paper, ink = _jitter(rng, paper, 14), _jitter(rng, ink, 14)
        aspect = width / height
        rows = 2 if aspect < 1.75 or (aspect < 2.6 and rng.random() < 0.35) else 1
        sheet = _Sheet(width, height, paper)
        if rng.random() < 0.2:
            _scenery(rng, sheet, paper)
        inner = self._bands(rng, sheet, rows)
        if rng.random() < 0.6:
            inset = rng.uniform(0, 0.04) * height
            box = inset, inset, width - 2 * inset, height - 2 * inset
            sheet.box(box, rng.choice((ink, ink, (40, 40, 40))), rng.uniform(1.5, 5))
        self._numbers(rng, sheet, inner, rows, ink)
        self._extras(rng, sheet)
        return _finished(rng, sheet, rows, name, f"latin-{rows}")

    def _bands(self, rng: random.Random, sheet: _Sheet, rows: int) -> Box:
        """Bands at the sides, above or below, with their lettering; the box that is left for the number."""
        left, top, right, bottom = 0.0, 0.0, sheet.width, sheet.height
        if sheet.width / sheet.height > 2.8 and rng.random() < 0.6:
            band = rng.uniform(0.07, 0.12) * sheet.width
            colour = _jitter(rng, rng.choice(((150, 55, 10), (150, 55, 10), _RED, _GREEN, (20, 20, 20))), 12)
            self._side_band(rng, sheet, 0.0, band, colour)
            left += band
            if rng.random() < 0.15:
                self._side_band(rng, sheet, right - band, band, colour)
                right -= band
        chance = 0.25 if sheet.width / sheet.height > 2.8 else 0.7
        if rng.random() < chance:
            band = rng.uniform(0.14, 0.26) * sheet.height
            self._row_band(rng, sheet, (left, 0.0, right - left, band))
            top += band
        if rng.random() < chance * 0.6:
            band = rng.uniform(0.1, 0.2) * sheet.height
            self._row_band(rng, sheet, (left, bottom - band, right - left, band))
            bottom -= band
        return left, top, right - left, bottom - top

    def _side_band(self, rng: random.Random, sheet: _Sheet, x: float, width: float, colour: Colour) -> None:
        """A band with a ring of stars or a seal above, and a country's letters below."""
        height = sheet.height
        sheet.box((x, 0, width, height), colour)
        light = (60, 210, 250) if rng.random() < 0.6 else (240, 240, 240)
        sheet.disc(x + width / 2, 0.3 * height, 0.3 * width, light, 0 if rng.random() < 0.3 else 3)
        letters = rng.randint(1, 3)
        each = width * 0.8 / letters
        for i in range(letters):
            box = x + width * 0.1 + i * each, height * 0.62, each * 0.9, height * 0.25
            sheet.stamp(character(rng.choice(_LATIN[10:]), 2, 0), box, (240, 240, 240))

    def _row_band(self, rng: random.Random, sheet: _Sheet, box: Box) -> None:
        """A painted or bare band with a state's name or a slogan."""
        left, top, width, height = box
        ink = _jitter(rng, rng.choice((_BLACK, _BLUE, _RED, _GREEN)), 14)
        if rng.random() < 0.45:
            sheet.box(box, _jitter(rng, rng.choice(((150, 60, 20), _GREEN, _RED, (160, 120, 60))), 14))
            ink = (240, 240, 240)
        if rng.random() < 0.85:
            share = rng.uniform(0.25, 0.8)
            x = left + (width - share * width) * rng.choice((0.5, 0.5, rng.random()))
            sheet.stamp(self.lines.draw(rng), (x, top + 0.15 * height, share * width, 0.7 * height), ink)

    def _numbers(self, rng: random.Random, sheet: _Sheet, inner: Box, rows: int, ink: Colour) -> None:
        """The registration itself, in one row or two."""
        left, top, width, height = inner
        weight, form = rng.randrange(_PENS), rng.randrange(2)
        if rows == 1:
            share = rng.uniform(0.55, 0.86)
            count = rng.randint(4, 8) if sheet.width / sheet.height > 2.2 else rng.randint(3, 7)
            box = left, top + height * (1 - share) / 2, width, height * share
            _row(rng, sheet, box, _text(rng, count), ink, weight, form)
            return
        split = rng.uniform(0.3, 0.52)
        gap = rng.uniform(0.04, 0.1) * height
        upper = left, top + gap, width, height * split - gap * 1.5
        lower = left, top + height * split + gap / 2, width, height * (1 - split) - gap * 1.5
        _row(rng, sheet, upper, _text(rng, rng.randint(2, 5)), ink, weight, form)
        _row(rng, sheet, lower, _text(rng, rng.randint(2, 5)), ink, weight, form)

    def _extras(self, rng: random.Random, sheet: _Sheet) -> None:
        """Stickers, seals and a dealer's line."""
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            x, y = rng.random() * sheet.width, rng.choice((rng.random(), 0.1, 0.9)) * sheet.height
            size, colour = rng.uniform(0.06, 0.16) * sheet.height, _jitter(rng, rng.choice(PAINTS), 30)
            if rng.random() < 0.5:
                sheet.disc(x, y, size, colour)
            else:
                sheet.box((x - size, y - size, 2 * size, 1.6 * size), colour)


def _share(plate: Plate) -> float:
    """Kinds with two rows and rare colours are seen more often than on roads."""
    return 0.12 if plate.height > 200 else max(plate.share, 0.03)


def _world_share(plate: Plate) -> float:
    """American shapes and plates of two rows are seen more often than on roads.

    Their corners are hard to tell: a state's name, slogans and pictures lie between the number and the edge. Most other
    kinds are strips of one shape, which a network learns from few examples.
    """
    return plate.share * plate.country_share * (2.5 if plate.width < 2.4 * plate.height else 1.0)


_WORLD = tuple(plate for plate in PLATES if not plate.slots)
_WORLD_SHARES = [_world_share(plate) for plate in _WORLD]


def _printed(drawing: plate_art.Drawing) -> Pixels:
    """The plate alone, without what its canvas has around it, with its ink on its paper; BGR (H, W, 3)."""
    canvas = drawing.canvas
    x, y = (round(start * scale) for start, scale in zip(canvas.origin, canvas.scale, strict=True))
    width, height = (round(size * scale) for size, scale in zip(canvas.plate, canvas.scale, strict=True))
    part = slice(y, y + height), slice(x, x + width)
    paper, ink = drawing.paper[part], drawing.ink[part][..., None] * np.float32(1 / 255)
    return np.asarray(paper + (np.array(drawing.colours.ink, np.float32) - paper) * ink, np.uint8)


def _chinese(rng: random.Random, plate: Plate) -> Art:
    colours = rng.choice(plate.colours)
    sheet = _Sheet(plate.width, plate.height, _jitter(rng, colours.top, 12))
    if colours.top != colours.bottom:
        ramp = np.linspace(0, 1, len(sheet.image), dtype=np.float32)[:, None, None]
        bottom = np.array(_jitter(rng, colours.bottom, 12), np.float32)
        sheet.image[:] = sheet.image + (bottom - sheet.image) * ramp
    ink = _jitter(rng, colours.ink, 10)
    weight, form = rng.randrange(_PENS), rng.randrange(2)
    text = draw_text(rng, plate)
    for position, (letter, slot) in enumerate(zip(text, plate.slots, strict=True)):
        last = colours.last is not None and position == len(text) - 1 and letter in _CJK
        colour = colours.last if last and colours.last else ink
        sheet.stamp(character(letter, weight, form), (slot.x, slot.y, slot.width, slot.height), colour)
    if plate.dot:
        sheet.disc(*plate.dot, rng.uniform(4, 7), ink)
    if rng.random() < 0.85:
        inset = rng.uniform(3, 9)
        sheet.box((inset, inset, plate.width - 2 * inset, plate.height - 2 * inset), ink, rng.uniform(1.5, 4))
    rows = 2 if plate.height > 200 else 1
    return _finished(rng, sheet, rows, _name(colours.top), plate.name)


def with_text(rng: random.Random, plate: Plate, text: str) -> Art:
    """A Chinese plate of this kind and text."""
    return _chinese(rng, plate._replace(texts=(parse(text, {}),)))


def _name(paper: tuple[int, int, int]) -> str:
    """What a kind's paper is called, one of COLOURS."""
    return _NAMES.get(paper, "other")


def _finished(rng: random.Random, sheet: _Sheet, rows: int, colour: str, kind: str) -> Art:
    """Bolts, dirt, rounded corners."""
    for x in (0.25, 0.75):
        for y in (0.1, 0.9):
            if rng.random() < 0.3:
                shade = rng.uniform(30, 230)
                place = (x + rng.gauss(0, 0.04)) * sheet.width, y * sheet.height
                sheet.disc(*place, rng.uniform(3, 8), (shade, shade, shade))
    if rng.random() < 0.35:
        _dirt(rng, sheet.image)
    opacity = np.zeros(sheet.image.shape[:2], np.uint8)
    radii = (0.0, 8.0, 13.0, 17.0) if sheet.width < 350 else (0.0, 0.0, 8.0, 14.0)  # short plates are mostly rounded
    radius = round(rng.choice(radii) * sheet.scale)
    height, width = opacity.shape
    opacity[radius : height - radius] = 255
    opacity[:, radius : width - radius] = 255
    for x in (radius, width - 1 - radius):
        for y in (radius, height - 1 - radius):
            cv2.circle(opacity, (x, y), radius, 255, -1, cv2.LINE_AA)
    return Art(sheet.image, opacity, (sheet.width, sheet.height), rows, colour, kind)


def _dirt(rng: random.Random, image: Pixels) -> None:
    noise = np.random.Generator(np.random.SFC64(rng.getrandbits(32)))
    coarse = np.clip(noise.standard_normal((4, 9), np.float32), 0, 2) * np.float32(rng.uniform(0.1, 0.4))
    spots = cv2.resize(coarse, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    colour = np.array([rng.uniform(30, 90), rng.uniform(50, 110), rng.uniform(60, 140)], np.float32)
    image[:] = image + (colour - image) * np.minimum(spots, 0.7)


def _scenery(rng: random.Random, sheet: _Sheet, paper: Colour) -> None:
    """A pale picture behind the number, as on plates of the USA."""
    height = len(sheet.image)
    top, bottom = (np.array(_jitter(rng, paper, 45), np.float32) for _ in range(2))
    sheet.image[:] = top + (bottom - top) * np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    for _ in range(rng.randint(0, 3)):
        place = rng.random() * sheet.width, rng.random() * sheet.height
        sheet.disc(*place, rng.uniform(0.1, 0.5) * sheet.height, _jitter(rng, paper, 45))


def _shape(rng: random.Random) -> tuple[float, float]:
    if rng.random() < 0.25:
        aspect = math.exp(rng.uniform(0.0, 1.55))  # 1:1 to 4.7:1
        return 300.0 * aspect**0.35, 300.0 * aspect**0.35 / aspect
    width, height, _ = rng.choices(_SHAPES, [shape[2] for shape in _SHAPES])[0]
    return width, height


def _text(rng: random.Random, count: int) -> str:
    """Letters and digits in groups; a space or a dash parts them."""
    groups = rng.choice((1, 1, 2, 2, 3)) if count > 4 else 1
    text = ""
    for place in range(count):
        if place and rng.random() < (groups - 1) / count:
            text += rng.choice("  -.")
        text += rng.choice(DIGITS if rng.random() < 0.6 else _LATIN)
    return text


def _row(rng: random.Random, sheet: _Sheet, box: Box, text: str, ink: Colour, weight: int, form: int) -> None:
    """A row of characters in the box, centred, as wide as they fit or narrower."""
    left, top, width, height = box
    units = sum(0.45 if letter in " -." else 1.0 for letter in text)
    pitch = min(width * rng.uniform(0.85, 0.95) / units, height * rng.uniform(0.5, 0.95))
    x = left + (width - pitch * units) / 2
    face = rng.uniform(0.74, 0.92) * pitch
    for letter in text:
        step = pitch * (0.45 if letter in " -." else 1.0)
        if letter in "-.":
            sheet.disc(x + step / 2, top + height * 0.5, height * 0.06, ink)
        elif letter != " ":
            sheet.stamp(character(letter, weight, form), (x + (step - face) / 2, top, face, height), ink)
        x += step


@functools.cache
def character(letter: str, weight: int, form: int) -> Pixels:
    """Coverage (72, 36) of a character as we draw it, with one of `_PENS` pens."""
    forms: Sequence[glyphs.Glyph] = glyphs.load()[letter]
    glyph = forms[form % len(forms)]
    large = glyphs.rasterize(glyph.strokes, glyph.width * (0.7 + 0.2 * weight), 1.6)
    return np.asarray(cv2.resize(large, (36, 72), interpolation=cv2.INTER_AREA), np.uint8)


def _jitter(rng: random.Random, colour: Colour, spread: float) -> Colour:
    shade = rng.gauss(0, spread)
    blue, green, red = (min(max(value + shade + rng.gauss(0, spread / 2), 0), 255) for value in colour)
    return blue, green, red
