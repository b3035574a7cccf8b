"""Rendered plates that look like photographs, at the input size of the reader, with their text.

A sample is drawn in four steps: a text of a kind of plate (`plates.PLATES`); the plate flat (`plate_art`,
`plate_slots`); the crop that a detector would cut, or that its corners straighten (`plate_view`); paint, light, lens,
sensor and codec (`plate_photo`). Of some, a part is hidden (`plate_hidden`). Each sample has its own random
generator, so a seed gives the same plate on every machine with the same libraries and typefaces.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates.kinds import DRILL, PLATES, Colours, Plate, shares
from model_builder.plates.typefaces import Typefaces
from model_builder.render.plate_art import Art, Drawing
from model_builder.render.plate_hidden import cut, hide
from model_builder.render.plate_photo import HEIGHT, WIDTH, X, Y, blotches, color, photograph, ramp
from model_builder.render.plate_slots import CJK, Slotted
from model_builder.render.plate_view import viewed
from service.finding.views import FOUND, View

Image = NDArray[np.uint8]
Floats = NDArray[Any]  # float32 in memory, which the stubs of OpenCV and NumPy can't follow

_CUT: Final = 0.45  # how often a plate of which something is hidden is cut by the edge of the image


class Sample(NamedTuple):
    """A rendered crop, uint8 (24, 94, 3) BGR, its text and the name of its kind of plate."""

    image: Image
    text: str
    kind: str


class Renderer:
    """Draws samples. `fonts=False` uses our own strokes alone, whatever typefaces are installed; `folders` have more
    typefaces. `plates` are the kinds to draw by their shares."""

    def __init__(self, *, fonts: bool = True, folders: Sequence[Path] = (), plates: Sequence[Plate] = PLATES) -> None:
        self.plates, self._shares = plates, shares(plates)
        self.typefaces = Typefaces(folders) if fonts else None
        self._slotted = Slotted(self.typefaces)

    def sample(self, seed: int, kind: Plate | None = None, *, hidden: bool = False, view: View = FOUND) -> Sample:
        """The plate of this seed, of a kind drawn by its share or of the one given.

        Where it is `hidden`, something lies before a part of it, or the edge of the image cuts it; its text stays.
        Another `view` of the same seed shows the same plate.
        """
        rng = random.Random(seed)
        noise = np.random.Generator(np.random.SFC64(seed))
        plate = kind or rng.choices(self.plates, self._shares)[0]
        items = plate.draw(rng)
        text = plate.read(items)
        art = self._slotted.art(rng, plate, text) if plate.slots else Drawing(rng, plate, items, self.typefaces).art()
        if rng.random() < 0.7:
            _bolts(rng, art)
        if rng.random() < 0.3:
            _frame_lettering(rng, art)
        painted = _paint(rng, noise, art, text, *viewed(rng, art, view))
        is_cut = hidden and rng.random() < _CUT
        if hidden and not is_cut:
            hide(rng, painted)
        image = photograph(rng, noise, painted)
        if is_cut:
            cut(rng, image, (round(view.upper * image.shape[1]),) if art.rows == 2 else ())
        return Sample(image, text, plate.name)


def draw_text(rng: random.Random, plate: Plate) -> str:
    """What a random plate of this kind is read as."""
    return plate.read(plate.draw(rng))


def _bolts(rng: random.Random, art: Art) -> None:
    width, height = art.canvas.plate
    for x in (width * 0.25, width * 0.75):
        for y in (12.0, height - 12.0):
            if rng.random() < 0.6:
                place = x + rng.gauss(0, 0.027) * width, y + rng.gauss(0, 4)
                art.canvas.disc(art.extra, *place, rng.uniform(3, 9), rng.randint(90, 255))


def _frame_lettering(rng: random.Random, art: Art) -> None:
    """The lettering of a dealer on the frame, above or below the plate: marks that must not be read."""
    width, height = art.canvas.plate
    y = rng.choice((-rng.uniform(8, 30), height + rng.uniform(8, 30)))
    x, end, strength = rng.uniform(0, 0.27) * width, width - rng.uniform(0, 0.27) * width, rng.randint(60, 230)
    size = rng.uniform(5, 13)
    while x < end:
        step = size * rng.uniform(0.5, 1.0)
        a, b = (
            art.canvas.point(x, y + rng.uniform(-size, size) / 2),
            art.canvas.point(x + step, y + rng.uniform(-size, size) / 2),
        )
        cv2.line(art.extra, a, b, strength, rng.choice((1, 1, 2)), cv2.LINE_AA, 4)
        cv2.line(
            art.extra, art.canvas.point(x, y - size / 2), art.canvas.point(x, y + size / 2), strength, 1, cv2.LINE_AA, 4
        )
        x += step + rng.uniform(1, 4)


def _jitter(rng: random.Random, base: tuple[int, int, int], spread: float) -> Floats:
    return color([min(max(c + rng.gauss(0, spread), 0), 255) for c in base])


def _paint(
    rng: random.Random, noise: np.random.Generator, art: Art, text: str, masks: Image, printed: Image | None
) -> Floats:
    """Paint: coverage masks and printed paper, if any (36, 141, 3) -> float32 BGR planes (3, 36, 141), 0..255."""
    ink, body, extra = (plane * np.float32(1 / 255) for plane in cv2.split(masks))
    colours = art.colours
    paper = _paper(rng, colours) if printed is None else printed.transpose(2, 0, 1).astype(np.float32)
    ink_color = _jitter(rng, colours.ink, 10) * np.float32(rng.uniform(0.75, 1))
    if colours.last is not None and text[-1] in CJK:
        ink_color = np.where(1 - 2 / len(text) < X, _jitter(rng, colours.last, 20), ink_color)
    if rng.random() < 0.15:  # worn or dirty ink
        ink = ink * np.clip(1.0 - blotches(noise, rng.uniform(0.2, 0.8)), 0.25, 1)
    image: Floats = paper + (ink_color - paper) * ink
    if rng.random() < 0.25:  # embossing: light on one edge of the strokes, shade on the other
        shift = np.roll(ink, rng.choice((-1, 1)), rng.choice((0, 1)))
        image += (shift - ink) * np.float32(rng.uniform(-45, 45))
    background = _surroundings(rng, noise)
    image -= background
    image *= body
    image += background
    if extra.any():
        shade = rng.uniform(20, 240)
        extra_color = color([shade + rng.gauss(0, 8) for _ in range(3)])
        image += (extra_color - image) * (extra * np.float32(rng.uniform(0.5, 1)))
    if rng.random() < 0.3:  # dirt and rust
        dirt = color([rng.uniform(30, 90), rng.uniform(50, 120), rng.uniform(60, 150)])
        image += (dirt - image) * blotches(noise, rng.uniform(0.1, 0.6))
    image *= ramp(rng, 0.7, 1.15)
    return image


def _paper(rng: random.Random, colours: Colours) -> Floats:
    """Plain paper, float32 (3, 36, 141) or of a size that is broadcast to it."""
    spread = rng.choice((8, 20))
    paper = _jitter(rng, colours.top, spread)
    if colours.top != colours.bottom:
        t = np.clip((Y + 1) / 2 * rng.uniform(0.8, 1.4) - rng.uniform(0, 0.3), 0, 1)
        paper = paper + (_jitter(rng, colours.bottom, spread) - paper) * t
    return paper


def _surroundings(rng: random.Random, noise: np.random.Generator) -> Floats:
    """What is seen around the plate: bumper, frame, shadow; float32 (3, 36, 141)."""
    base = rng.choice((rng.uniform(0, 60), rng.uniform(0, 255), rng.uniform(160, 255)))
    coarse = noise.standard_normal((rng.randint(2, 6), rng.randint(2, 10)), np.float32) * np.float32(rng.uniform(5, 50))
    texture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return np.clip(texture + color([base + rng.gauss(0, 14) for _ in range(3)]), 0, 255)


def batch(
    renderer: Renderer, seed: int, count: int, *, drill: float = 0.0, hidden: float = 0.0
) -> tuple[Image, list[str]]:
    """`count` plates with seeds seed, seed + 1, ...: images uint8 (count, 24, 94, 3) and their texts.

    `drill` is the share of them that shows Chinese characters only (`plates.DRILL`), `hidden` the share of which a part
    is not seen.
    """
    images, texts = np.empty((count, 24, 94, 3), np.uint8), []
    draw = np.random.default_rng(seed)
    drills, hides = draw.random(count) < drill, draw.random(count) < hidden
    for index in range(count):
        sample = renderer.sample(seed + index, DRILL if drills[index] else None, hidden=bool(hides[index]))
        images[index] = sample.image
        texts.append(sample.text)
    return images, texts
