"""Plates drawn flat: coverage masks of ink, plate and what lies on top, and the paper's own picture.

The ink is what is read, with the border. The paper has all else that is printed: bands, emblems, names, slogans, seals,
stickers. Sizes are in mm; the canvas has other scales across and down, so that each plate has about as many pixels.
"""

import itertools
import math
import random
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates import patterns
from model_builder.plates.kinds import PALETTE, Band, Colours, Plate, Words
from model_builder.plates.patterns import Item
from model_builder.plates.typefaces import Typefaces
from model_builder.render import plate_letters
from model_builder.render.plate_letters import Lettering, Mask
from model_builder.render.plate_seals import SEALS, VIVID, flag, scenery, shield

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, width, height in mm
Colour = tuple[float, float, float]

ACROSS: Final = 0.091  # surroundings drawn around a plate, in its widths
DOWN: Final = 0.286  # and in its heights
_PICTURES: Final = ("picture", "outline")
_SEAL_WIDTHS: Final = {"discs": 0.42, "stack": 0.36, "emblem": 1.0, "logo": 1.0, "figure": 0.8}  # in heights of the row
_PIXELS: Final = {1: (242, 77), 2: (190, 140)}  # of a plate with so many rows


class Canvas:
    """Positions in mm on a plate as pixels of a canvas."""

    def __init__(self, plate: Plate, width: float, height: float) -> None:
        across, down = _PIXELS[plate.rows]
        self.scale = across / width, down / height
        self.origin = ACROSS * width, DOWN * height
        self.plate = width, height
        self.size = round(down * (1 + 2 * DOWN)), round(across * (1 + 2 * ACROSS))

    def point(self, x: float, y: float) -> tuple[int, int]:
        """In OpenCV's fixed point with 4 fractional bits."""
        return round((x + self.origin[0]) * self.scale[0] * 16), round((y + self.origin[1]) * self.scale[1] * 16)

    def line(self, width: float) -> int:
        return max(1, round(width * (self.scale[0] + self.scale[1]) / 2))

    def rectangle(self, on: Image, box: Box, colour: Any, line: float = 0) -> None:
        """A box filled, or its edge with a line so many mm wide."""
        left, top, width, height = box
        corners = self.point(left, top), self.point(left + width, top + height)
        cv2.rectangle(on, *corners, colour, self.line(line) if line else -1, cv2.LINE_AA, 4)

    def disc(self, on: Image, x: float, y: float, radius: float, colour: Any, line: float = 0) -> None:
        axes = round(radius * self.scale[0] * 16), round(radius * self.scale[1] * 16)
        cv2.ellipse(on, self.point(x, y), axes, 0, 0, 360, colour, self.line(line) if line else -1, cv2.LINE_AA, 4)

    def polygon(self, on: Image, points: list[tuple[float, float]], colour: Any, line: float = 0) -> None:
        placed = np.array([self.point(*point) for point in points], np.int32)
        if line:
            cv2.polylines(on, [placed], True, colour, self.line(line), cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(on, [placed], colour, cv2.LINE_AA, 4)

    def paste(self, ink: Image, mask: Mask, box: Box) -> None:
        """Lay a mask over the box; what is there already stays."""
        if (placed := self._placed(ink, mask, box)) is not None:
            area, patch = placed
            np.maximum(area, patch, out=area)

    def stamp(self, paper: Image, mask: Mask, box: Box, colour: Colour) -> None:
        """Paint a mask over the box of the paper."""
        if (placed := self._placed(paper, mask, box)) is not None:
            area, patch = placed
            share = (patch * np.float32(1 / 255))[..., None]
            area[:] = area + (np.array(colour, np.float32) - area) * share

    def _placed(self, on: Image, mask: Mask, box: Box) -> tuple[Image, Mask] | None:
        """The part of the canvas that a box covers, and the mask in its size, both cut at the edge."""
        left, top, width, height = box
        x, y = round((left + self.origin[0]) * self.scale[0]), round((top + self.origin[1]) * self.scale[1])
        w, h = max(2, round(width * self.scale[0])), max(2, round(height * self.scale[1]))
        shrinks = mask.shape[0] > 1.6 * h or mask.shape[1] > 1.6 * w
        patch = cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        x0, y0 = max(x, 0), max(y, 0)
        area = on[y0 : y + h, x0 : x + w]
        if not area.size:
            return None
        cut = patch[y0 - y : y0 - y + area.shape[0], x0 - x : x0 - x + area.shape[1]]
        return area, np.asarray(cut, np.uint8)


class Art(NamedTuple):
    """A plate drawn flat: masks uint8 (H, W) of ink, body and what lies on top, the paper uint8 (H, W, 3) BGR or None
    where it is plain, and the colours to paint with. `split` is where its rows part, in its heights; 0 of one row."""

    canvas: Canvas
    ink: Image
    body: Image
    extra: Image
    paper: Image | None
    colours: Colours
    split: float = 0.0

    @property
    def rows(self) -> int:
        """1 or 2."""
        return 2 if self.split else 1


class Drawing:
    """A plate of the kinds that set their characters side by side, while it is drawn."""

    def __init__(self, rng: random.Random, plate: Plate, items: tuple[Item, ...], typefaces: Typefaces | None) -> None:
        self.rng, self.plate, self.typefaces = rng, plate, typefaces
        spread = plate.tolerance
        self.width = plate.width * rng.uniform(1 - spread, 1 + spread)
        self.height = plate.height * rng.uniform(1 - spread, 1 + spread)
        self.canvas = Canvas(plate, self.width, self.height)
        self.ink, self.body, self.extra = (np.zeros(self.canvas.size, np.uint8) for _ in range(3))
        self.colours = jittered(rng, rng.choice(plate.colours))
        self.paper = np.empty((*self.canvas.size, 3), np.uint8)
        self.split = 0.0
        self._draw(items)

    def art(self) -> Art:
        return Art(self.canvas, self.ink, self.body, self.extra, self.paper, self.colours, self.split)

    def _draw(self, items: tuple[Item, ...]) -> None:
        rng, plate = self.rng, self.plate
        self.canvas.rectangle(self.body, (0, 0, self.width, self.height), 255)
        self.paper[:] = self.colours.top
        if self.colours.bottom != self.colours.top:
            ramp = np.linspace(-0.4, 1.4, self.canvas.size[0], dtype=np.float32).clip(0, 1)[:, None, None]
            self.paper[:] = self.paper + (np.array(self.colours.bottom, np.float32) - self.paper) * ramp
        if rng.random() < plate.pictures:
            scenery(rng, self)
        area = self._bands((0.0, 0.0, self.width, self.height))
        area = self._words(area)
        if rng.random() < plate.frame:
            inset, line = rng.uniform(1, 6), rng.uniform(1, 4)
            box = inset, inset, self.width - 2 * inset, self.height - 2 * inset
            self.canvas.rectangle(self.ink, box, rng.choice((255, 255, 180, 110)), line)
        self._numbers(items, area)
        for _ in range(rng.randint(0, plate.stickers)):
            self._sticker()
        if plate.stickers and rng.random() < 0.35:
            self._holder()

    def _bands(self, area: Box) -> Box:
        left, top, width, height = area
        for band in self.plate.bands:
            if self.rng.random() >= band.chance:
                continue
            size = band.size * self.rng.uniform(0.88, 1.12)
            match band.side:
                case "left":
                    self._side_band(band, (0.0, 0.0, size, self.height))
                    left, width = left + size, width - size
                case "right":
                    self._side_band(band, (self.width - size, 0.0, size, self.height))
                    width -= size
                case "top":
                    self._row_band(band, (0.0, 0.0, self.width, size))
                    top, height = top + size, height - size
                case "bottom":
                    self._row_band(band, (0.0, self.height - size, self.width, size))
                    height -= size
        return left, top, width, height

    def colour(self, name: str, spread: float = 14) -> Colour:
        """A colour by its name, slightly changed; "any" is a vivid one, "ink" that of the characters."""
        if name == "ink":
            return self.colours.ink
        return jitter(self.rng, PALETTE[self.rng.choice(VIVID) if name == "any" else name], spread)

    def _side_band(self, band: Band, box: Box) -> None:
        """An emblem above, a country's letters below."""
        rng, (left, top, width, height) = self.rng, box
        if self.plate.rows == 2 and rng.random() < 0.6:  # beside the upper row alone
            height *= rng.uniform(0.42, 0.55)
        self.canvas.rectangle(self.paper, (left, top, width, height), self.colour(band.colour))
        text = self._band_text(band)
        emblem = rng.choice(band.emblem)
        if emblem != "none":
            self._emblem(
                emblem, left + width / 2, top + height * rng.uniform(0.26, 0.36), width * rng.uniform(0.26, 0.38)
            )
        if text:
            share = min(0.9, (0.34 if len(text) == 1 else 0.72) * rng.uniform(0.85, 1.2))
            tall = height * rng.uniform(0.2, 0.3)
            y = top + height * rng.uniform(0.6, 0.66)
            mask = plate_letters.line(rng, text, self.typefaces)
            box = left + width * (1 - share) / 2, y, width * share, tall
            self.canvas.stamp(self.paper, mask, box, self.colour(band.ink, 8))

    def _row_band(self, band: Band, box: Box) -> None:
        rng, (left, top, width, height) = self.rng, box
        self.canvas.rectangle(self.paper, box, self.colour(band.colour))
        text = self._band_text(band)
        if text:
            share = min(0.8, 0.045 * len(text) * rng.uniform(0.8, 1.3) * 400 / self.width)
            mask = plate_letters.line(rng, text, self.typefaces)
            box = left + width * (1 - share) / 2, top + height * 0.22, width * share, height * 0.56
            self.canvas.stamp(self.paper, mask, box, self.colour(band.ink, 8))
        emblem = rng.choice(band.emblem)
        if emblem != "none":
            x = rng.choice((left + width * 0.93, left + width * 0.93, left + width * 0.07))
            self._emblem(emblem, x, top + height / 2, height * 0.36)

    def _band_text(self, band: Band) -> str:
        if not band.letters:
            return ""
        drawn = patterns.draw(self.rng, patterns.parse(self.rng.choice(band.letters), {}))
        return "".join([" " if item.what == "gap" else item.symbol for item in drawn])

    def _emblem(self, name: str, x: float, y: float, radius: float) -> None:
        rng, canvas, paper = self.rng, self.canvas, self.paper
        match name:
            case "stars":
                gold = self.colour(rng.choice(("gold", "gold", "white")), 12)
                if rng.random() < 0.5:
                    canvas.disc(paper, x, y, radius, gold, rng.uniform(2.5, 5))
                    return
                for i in range(12):
                    angle = i * math.pi / 6
                    place = x + radius * math.cos(angle), y + radius * math.sin(angle)
                    canvas.disc(paper, *place, radius * 0.2, gold)
            case "flag":
                box = x - radius * 1.1, y - radius * 0.8, radius * 2.2, radius * 1.6
                flag(rng, self, box)
            case _:
                shield(rng, self, x, y, radius)

    def _words(self, area: Box) -> Box:
        left, top, width, height = area
        for words in self.plate.words:
            if self.rng.random() >= words.chance:
                continue
            tall = words.height * self.rng.uniform(0.8, 1.15)
            match words.place:
                case "top":
                    self._line(words, (left, top, width, tall * 1.45), tall)
                    top, height = top + tall * 1.25, height - tall * 1.25
                case "bottom":
                    self._line(words, (left, top + height - tall * 1.45, width, tall * 1.45), tall)
                    height -= tall * 1.25
                case "side":
                    self._line(words, (left, top + height - tall * 1.8, width * 0.08, tall), tall * 0.8)
        return left, top, width, height

    def _line(self, words: Words, box: Box, tall: float) -> None:
        rng, (left, top, width, height) = self.rng, box
        mask = plate_letters.line(rng, rng.choice(words.texts), self.typefaces)
        natural = tall * mask.shape[1] / mask.shape[0]
        wide = min(natural * rng.uniform(0.8, 1.25), 0.9 * width)
        x = left + (width - wide) * rng.choice((0.5, 0.5, 0.5, rng.uniform(0.1, 0.9)))
        place = x, top + (height - tall) * rng.uniform(0.3, 0.7), wide, tall
        self.canvas.stamp(self.paper, mask, place, self.colour(words.colour))

    def _numbers(self, items: tuple[Item, ...], area: Box) -> None:
        """The rows of the number, centred in the area, as high as they fit."""
        rng, plate = self.rng, self.plate
        lettering = Lettering(rng, plate.faces, self.typefaces)
        rows = _rows(items)
        _, top, _, height = area
        heights = [tall * self.height / plate.height for _, tall in plate.characters]
        fit = min(1.0, 0.95 * height / (sum(heights) + 0.04 * height * (len(rows) - 1))) * rng.uniform(0.93, 1.04)
        free = (height - fit * sum(heights)) / (len(rows) + 1)
        y = top + free * rng.gauss(1, 0.12)
        shape = rng.uniform(0.92, 1.08), rng.uniform(0.7, 1.3), rng.uniform(0.75, 1.3)
        for row, (wide, _), tall in zip(rows, plate.characters, heights, strict=True):
            self._row(row, (area[0], y, area[2], tall * fit), wide * self.width / plate.width, shape, lettering)
            y += tall * fit + free
            if len(rows) == 2 and not self.split:
                self.split = (y - free / 2) / self.height

    def _row(
        self, row: list[Item], box: Box, wide: float, shape: tuple[float, float, float], lettering: Lettering
    ) -> None:
        """One row. `shape` are shares of the usual width of characters, spaces and gaps."""
        rng, (left, top, width, height) = self.rng, box
        wide *= shape[0]
        space, gap = self.plate.space * wide * shape[1], self.plate.gap * wide * shape[2]
        masks = [lettering.mask(item.symbol, wide / height) if item.what == "character" else None for item in row]
        seals = [rng.choice(self.plate.seals) for _ in row]
        widths = [
            mask[1] * wide if mask else _sign_width(item, wide, gap, height, seal)
            for item, mask, seal in zip(row, masks, seals, strict=True)
        ]
        spaces = [space if a.what == b.what == "character" else space * 0.6 for a, b in itertools.pairwise(row)]
        total = sum(widths) + sum(spaces)
        squeeze = min(1.0, width * rng.uniform(0.9, 0.97) / total)
        if squeeze == 1.0 and rng.random() < 0.2:  # letters spread over the plate
            spaces = [each + (width * 0.92 - total) / max(len(spaces), 1) * rng.uniform(0.2, 0.9) for each in spaces]
            total = sum(widths) + sum(spaces)
        x = left + (width - total * squeeze) * min(max(rng.gauss(0.5, 0.12), 0.02), 0.98)
        for index, (item, mask) in enumerate(zip(row, masks, strict=True)):
            across = widths[index] * squeeze
            place = x, top + rng.gauss(0, 0.006) * height, across, height
            if mask is not None:
                self.canvas.paste(self.ink, mask[0], place)
            elif item.what == "mark":
                self._mark(item.symbol, place)
            elif item.what == "seal" and seals[index] != "none":
                self._seal(seals[index], x + across / 2, top + height / 2, across, height)
            x += across + (spaces[index] * squeeze if index < len(spaces) else 0)

    def _seal(self, name: str, x: float, y: float, width: float, height: float) -> None:
        """A seal around (x, y). A picture may reach behind the characters beside it."""
        rng = self.rng
        radius = height / 2 if name == "stack" else min(width, height * 1.2) / 2 * rng.uniform(0.75, 0.98)
        if name in _PICTURES and rng.random() < 0.35:
            radius = min(radius * rng.uniform(1.1, 1.6), height * 0.75)
        SEALS[name](rng, self, x, y, radius)

    def _mark(self, symbol: str, place: Box) -> None:
        rng, (x, y, width, height) = self.rng, place
        if symbol == "-":
            tall = height * rng.uniform(0.08, 0.15)
            self.canvas.rectangle(self.ink, (x, y + height * rng.uniform(0.42, 0.52), width, tall), 255)
            return
        radius = height * rng.uniform(0.05, 0.08)
        places = (0.3, 0.7) if symbol == ":" else (rng.choice((0.5, 0.5, 0.93)),)
        for place_y in places:
            self.canvas.disc(self.ink, x + width / 2, y + height * place_y, radius, 255)

    def _sticker(self) -> None:
        """A month's or a year's sticker in a corner."""
        rng = self.rng
        wide, tall = rng.uniform(0.08, 0.14) * self.width, rng.uniform(0.12, 0.2) * self.height
        x = rng.choice((0.02, 0.98)) * (self.width - wide)
        y = rng.choice((0.03, 0.03, 0.96)) * (self.height - tall)
        self.canvas.rectangle(self.paper, (x, y, wide, tall), self.colour("any", 40))
        text = rng.choice(("JAN", "MAY", "AUG", "DEC", f"{rng.randint(1, 12)}", f"{rng.randint(5, 29):02}"))
        mask = plate_letters.line(rng, text, self.typefaces)
        box = x + 0.12 * wide, y + 0.2 * tall, 0.76 * wide, 0.6 * tall
        self.canvas.stamp(self.paper, mask, box, self.colour(rng.choice(("white", "black"))))

    def _holder(self) -> None:
        """A dealer's frame around the plate, over its edges."""
        rng, shade = self.rng, self.colour(self.rng.choice(("black", "black", "silver", "grey", "white")))
        side, above, below = rng.uniform(3, 8), rng.uniform(4, 18), rng.uniform(4, 18)
        boxes = (
            (0.0, 0.0, self.width, above),
            (0.0, self.height - below, self.width, below),
            (0.0, 0.0, side, self.height),
            (self.width - side, 0.0, side, self.height),
        )
        for box in boxes:
            self.canvas.rectangle(self.paper, box, shade)


def _rows(items: tuple[Item, ...]) -> list[list[Item]]:
    rows: list[list[Item]] = [[]]
    for item in items:
        if item.what == "row":
            rows.append([])
        else:
            rows[-1].append(item)
    return rows


def _sign_width(item: Item, wide: float, gap: float, height: float, seal: str) -> float:
    match item.what:
        case "gap":
            return gap
        case "mark":
            return wide * (0.34 if item.symbol == "-" else 0.2)
        case _:
            return 0.5 * gap if seal == "none" else height * _SEAL_WIDTHS.get(seal, 0.6)


def jitter(rng: random.Random, colour: Colour, spread: float) -> Colour:
    shade = rng.gauss(0, spread * 0.7)
    blue, green, red = (min(max(value + shade + rng.gauss(0, spread * 0.7), 0), 255) for value in colour)
    return blue, green, red


def jittered(rng: random.Random, colours: Colours) -> Colours:
    """Colours of one plate; the two of its paper change together."""
    spread = rng.choice((6, 14))
    top, bottom, ink = (tuple(map(round, jitter(rng, colour, spread))) for colour in colours[:3])
    return Colours(top, bottom if colours.top != colours.bottom else top, ink)  # type: ignore[arg-type]
