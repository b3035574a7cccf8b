"""What stands in scenes beside plates: vehicles that carry them, and things that look like plates and are none."""

import math
import random

import numpy as np

from model_builder.render import scene_parts as parts
from model_builder.render.scene_parts import shade, vary
from model_builder.render.scene_pen import Colour, Floats, Pen, Pixels, Point, pose, project
from model_builder.render.scene_plates import PAINTS
from model_builder.render.scene_text import Lines

_BODIES: tuple[Colour, ...] = (
    (235, 235, 235),
    (200, 200, 200),
    (150, 150, 150),
    (90, 90, 90),
    (35, 35, 35),
    (25, 22, 20),
    (35, 30, 170),
    (120, 60, 25),
    (60, 40, 30),
    (60, 80, 40),
    (110, 160, 190),
    (40, 150, 220),
)


class Vehicle:
    """The front or the back of a car, a van or a lorry around a plate at (0, 0) of `size` mm; `outline` in pixels."""

    def __init__(self, rng: random.Random, pen: Pen, lines: Lines, size: tuple[float, float]) -> None:
        self.rng, self.pen, self.lines, self.size = rng, pen, lines, size
        self.colour = vary(rng, rng.choice(_BODIES), 18)
        self.half = rng.uniform(700, 980)
        self.bottom = rng.uniform(130, 480)
        self.belt = -rng.uniform(260, 620)  # where the windows begin
        self.roof = self.belt - rng.uniform(300, 650)
        self.aside = rng.choice((0.0, 0.0, 0.0, rng.uniform(-350, 350)))
        self.dark = rng.uniform(10, 60), rng.uniform(10, 60), rng.uniform(10, 60)
        self.lights: list[tuple[float, float, float]] = []  # lamps: x, y and radius in mm

    def draw(self) -> Floats:
        """Draw all of it below the plate; the outline of body and roof (n, 2) in pixels."""
        rng, half = self.rng, self.half
        ground = self.bottom + rng.uniform(40, 160)
        self.pen.polygon(self._even((half, self.bottom - 60), (half * 1.05, ground)), (18, 18, 18))
        for side in (-1, 1):  # wheels
            left = self.aside + side * (half - 130) - 100
            self.pen.box(left, self.bottom - 150, 200, ground - self.bottom + 170, (22, 22, 22))
        narrow = rng.uniform(0.62, 0.95)
        outline = self._even(
            (half * narrow, self.roof),
            (half * 0.96, self.belt),
            (half, self.bottom - 120),
            (half * 0.93, self.bottom),
        )
        self.pen.polygon(outline, self.colour)
        self._window(narrow)
        self._shading()
        if rng.random() < 0.55:
            self._grille()
        if rng.random() < 0.75:
            self._bumper()
        self._lamps()
        self._marks()
        if rng.random() < 0.5:
            self._recess()
        if rng.random() < 0.45:
            self._frame()
        return project(self.pen.homography, outline)

    def _even(self, *side: Point) -> list[Point]:
        """An outline that is the same left and right: half widths and heights, from the top to the bottom."""
        left = [(self.aside - half, y) for half, y in reversed(side)]
        return [*left, *((self.aside + half, y) for half, y in side)]

    def _window(self, narrow: float) -> None:
        rng, x, half = self.rng, self.aside, self.half
        inset = rng.uniform(0.06, 0.14) * half
        top, bottom = self.roof + rng.uniform(30, 90), self.belt - rng.uniform(-20, 40)
        glass = vary(rng, rng.choice(((45, 42, 38), (90, 85, 75), (20, 20, 20), (170, 165, 150))), 12)
        self.pen.polygon(self._even((half * narrow - inset, top), (half * 0.96 - inset, bottom)), glass)
        if rng.random() < 0.6:  # what is mirrored in it, and what is seen through it
            cut = x + rng.uniform(-0.6, 0.6) * half
            pane = [(cut, top), (cut + 250, top), (cut + 100, bottom), (cut - 200, bottom)]
            self.pen.polygon(pane, shade(glass, rng.uniform(0.6, 1.9)))
        for _ in range(rng.choice((0, 0, 1, 2, 4))):  # stickers
            place = x + rng.uniform(-0.7, 0.7) * half, rng.uniform(top, bottom)
            self.pen.box(*place, rng.uniform(30, 130), rng.uniform(30, 90), vary(rng, rng.choice(PAINTS), 25))
        if rng.random() < 0.12:
            self.pen.stamp(self.lines.draw(rng), (x - 350, bottom - 130, rng.uniform(200, 700), 100), (240, 240, 240))

    def _shading(self) -> None:
        """Seams, folds and mirrored sky as stripes of other brightness."""
        rng, x, half = self.rng, self.aside, self.half
        for _ in range(rng.randint(1, 6)):
            y, high = rng.uniform(self.belt, self.bottom), rng.choice((6.0, 10.0, rng.uniform(20, 160)))
            gain = rng.uniform(0.55, 0.9) if rng.random() < 0.6 else rng.uniform(1.05, 1.5)
            self._bent_stripe(y, high, rng.uniform(-70, 70), shade(self.colour, gain))
        if rng.random() < 0.5:  # the lid's edges
            width, colour = rng.uniform(0.5, 0.85) * half, shade(self.colour, 0.5)
            for side in (-width, width):
                low = x + side * rng.uniform(0.8, 1), self.bottom - 120
                self.pen.line((x + side, self.belt), low, 8, colour)

    def _bent_stripe(self, y: float, high: float, bend: float, colour: Colour) -> None:
        """A stripe across the body at y, bent by so many mm towards the sides."""
        side = self.half * 0.97
        upper = [(self.aside - side, y + bend), (self.aside, y), (self.aside + side, y + bend)]
        self.pen.polygon([*upper, *((px, py + high) for px, py in reversed(upper))], colour)

    def _grille(self) -> None:
        """A dark mouth, over or around the plate, with bars, nets or nothing in it."""
        rng, x = self.rng, self.aside
        width, height = rng.uniform(250, 700), rng.uniform(80, 330)
        top = rng.choice((0.0, -rng.uniform(150, 330), rng.uniform(120, 220))) - height / 2
        taper = rng.uniform(0.75, 1.1)
        mouth = self._even((width, top), (width * taper, top + height))
        self.pen.polygon(mouth, self.dark)
        bar = shade((200, 200, 200), rng.uniform(0.2, 1.15))
        thick = rng.uniform(6, 22)
        inner = width * min(taper, 1.0)
        if rng.random() < 0.75:
            for i in range(1, count := rng.randint(3, 9)):
                y = top + height * i / count
                self.pen.box(x - inner, y - thick / 2, 2 * inner, thick, bar)
        if rng.random() < 0.4:
            for i in range(1, count := rng.randint(6, 24)):
                self.pen.box(x - inner + 2 * inner * i / count, top, thick * 0.7, height, bar)
        if rng.random() < 0.4:
            for start, end in zip(mouth, [*mouth[1:], mouth[0]], strict=True):
                self.pen.line(start, end, thick, bar)

    def _bumper(self) -> None:
        rng = self.rng
        top = rng.choice((rng.uniform(60, 120), -rng.uniform(80, 200), rng.uniform(-60, 60)))
        if top > self.bottom - 40:
            return
        colour = self.dark if rng.random() < 0.4 else shade(self.colour, rng.uniform(0.75, 1.15))
        self._bent_stripe(top, rng.uniform(60, 260), 40, colour)
        self._bent_stripe(top, 10, 40, shade(colour, 0.6))

    def _lamps(self) -> None:
        """Lamps at both sides, alike, and small ones below."""
        rng, x = self.rng, self.aside
        y, width, height = self.belt + rng.uniform(40, 350), rng.uniform(100, 420), rng.uniform(60, 260)
        draw = rng.choice((parts.head_lamp, parts.rear_lamp))
        seed = rng.random()
        fogs = rng.random() < 0.3
        for side in (-1, 1):
            alike = random.Random(seed)
            center = x + side * (self.half * 0.97 - width / 2), y
            draw(alike, Pen(self.pen.image, self.pen.at(*center).homography @ np.diag([side, 1, 1])), width, height)
            self.lights.append((*center, min(width, height) / 4))
            if fogs:
                fog = self.pen.at(x + side * self.half * 0.72, self.bottom - alike.uniform(70, 170))
                (parts.head_lamp if alike.random() < 0.6 else parts.rear_lamp)(alike, fog, 150, 80)
            if alike.random() < 0.25:
                outer = x + side * self.half * 0.97
                self.pen.box(outer - side * 60 - 110, self.bottom - 110, 220, 40, (40, 40, 190))

    def _marks(self) -> None:
        """The maker's badge, the model's name, and what owners and firms paint on."""
        rng, x = self.rng, self.aside
        above = -self.size[1] / 2 - rng.uniform(60, 220)
        if rng.random() < 0.6:
            size = rng.uniform(50, 140)
            parts.badge(rng, self.pen.at(x, above), self.lines, size * rng.uniform(0.8, 1.8), size)
        if rng.random() < 0.08:
            sign = self.pen.at(x + rng.uniform(-200, 200), self.roof - rng.uniform(40, 110))
            parts.roof_sign(rng, sign, self.lines, rng.uniform(300, 600), rng.uniform(110, 220))
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            width, height = rng.uniform(100, 420), rng.uniform(25, 70)
            left, top = rng.uniform(-0.85, 0.55) * self.half, rng.uniform(self.belt, self.bottom - 80)
            if abs(top) > self.size[1] or abs(left + width / 2) > self.size[0]:
                if rng.random() < 0.7:
                    place = self.pen.at(x + left + width / 2, top + height / 2)
                    parts.name(rng, place, self.lines, width, height)
                else:
                    ink = vary(rng, rng.choice(PAINTS), 20)
                    self.pen.stamp(self.lines.draw(rng), (x + left, top, width, height), ink)

    def _recess(self) -> None:
        """A darker or lighter hollow behind the plate, with a chrome strip or lamps above."""
        rng, (width, height) = self.rng, self.size
        w, up, down = width * rng.uniform(0.52, 0.85), height * rng.uniform(0.6, 1.5), height * rng.uniform(0.55, 1.2)
        lean = rng.uniform(0.85, 1.15)
        hollow = [(-w, -up), (w, -up), (w * lean, down), (-w * lean, down)]
        self.pen.polygon(hollow, shade(self.colour, rng.uniform(0.35, 1.05)) if rng.random() < 0.75 else self.dark)
        if rng.random() < 0.35:
            self.pen.box(-w, -up, 2 * w, rng.uniform(10, 45), shade((215, 215, 215), rng.uniform(0.3, 1.1)))

    def _frame(self) -> None:
        """A holder around the plate, with a dealer's line on its edge."""
        rng, (width, height) = self.rng, self.size
        side, up, down = rng.uniform(6, 16), rng.uniform(6, 22), rng.uniform(8, 40)
        colour = shade((255, 255, 255), rng.choice((0.08, 0.1, 0.15, 0.5, 0.8, 0.93)))
        self.pen.box(-width / 2 - side, -height / 2 - up, width + 2 * side, height + up + down, colour)
        if rng.random() < 0.5 and down > 18:
            ink = (235, 235, 235) if colour[0] < 128 else (20, 20, 20)
            share = rng.uniform(0.25, 0.8) * width
            self.pen.stamp(self.lines.draw(rng), (-share / 2, height / 2 + 4, share, down - 8), ink)


def distractor(rng: random.Random, image: Pixels, lines: Lines, span: float) -> Floats:
    """Something that is no plate, about `span` pixels wide; its outline in pixels (4, 2)."""
    height, width = image.shape[:2]
    center = rng.uniform(0, width), rng.uniform(0, height)
    roll = rng.choice((0.0, 0.0, 0.0, math.pi / 2, rng.uniform(0, math.tau))) + rng.gauss(0, 0.05)
    aspect = math.exp(rng.uniform(-0.5, 1.7))
    w, h = 500.0, 500.0 / aspect
    pen = Pen(image, pose(rng, center, span / w, roll, rng.random() < 0.4))
    kinds = (_sign, _lettering, _panel, _windows, _bars, _disc, _chequers, _blank, _part)
    rng.choices(kinds, (5, 4, 2, 2, 3, 1.5, 1, 2, 7))[0](rng, pen, lines, w, h)
    return project(pen.homography, [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)])


def stamp_of_time(rng: random.Random, image: Pixels, lines: Lines) -> None:
    """Lettering laid over the finished picture: a camera's time stamp or a watermark."""
    height, width = image.shape[:2]
    w = rng.uniform(0.2, 0.9) * width
    h = min(w / rng.uniform(8, 18), 0.1 * height) if rng.random() < 0.8 else w / rng.uniform(3, 8)
    x, y = rng.uniform(0, width - w), rng.choice((rng.uniform(0, 0.1), rng.uniform(0.85, 0.98), rng.random())) * height
    colour = rng.choice(((255, 255, 255), (255, 255, 255), (0, 255, 255), (60, 60, 250), (20, 20, 20), (80, 240, 80)))
    pen = Pen(image, np.eye(3))
    if rng.random() < 0.2:
        pen.box(x - 2, y - 2, w + 4, h + 4, rng.choice(((0, 0, 0), (160, 60, 10), (255, 255, 255))))
    strength = rng.choice((1.0, 1.0, rng.uniform(0.2, 0.7)))
    for row in range(rng.choice((1, 1, 2))):
        pen.stamp(
            lines.draw(rng), (x, y + 1.3 * h * row, w * rng.choice((1.0, rng.uniform(0.6, 1))), h), colour, strength
        )


def _ink_on(colour: Colour, rng: random.Random) -> Colour:
    if rng.random() < 0.2:
        return vary(rng, rng.choice(PAINTS), 20)
    return (240, 240, 240) if sum(colour) < 380 else (25, 25, 25)


def _part(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """Of a vehicle that is not seen, on a piece of its body or on what is there."""
    if rng.random() < 0.5:
        body = vary(rng, rng.choice(_BODIES), 18)
        pen.box(-0.7 * w, -0.9 * h, 1.4 * w, 1.8 * h, body)
        if rng.random() < 0.5:
            pen.box(-0.7 * w, rng.uniform(-0.9, 0.5) * h, 1.4 * w, 0.3 * h, shade(body, rng.choice((0.6, 0.8, 1.2))))
    match rng.randrange(6):
        case 0:
            parts.head_lamp(rng, pen, w, h)
        case 1:
            parts.rear_lamp(rng, pen, w, h)
        case 2:
            parts.wheel(rng, pen, w, w)
        case 3:
            parts.badge(rng, pen, lines, w, h)
        case 4:
            parts.name(rng, pen, lines, w, h)
        case _:
            parts.roof_sign(rng, pen, lines, w, h)


def _sign(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """A panel with one to four lines, a border, or a picture beside them."""
    colour = vary(rng, rng.choice(PAINTS), 25)
    pen.box(-w / 2, -h / 2, w, h, colour)
    ink = _ink_on(colour, rng)
    if rng.random() < 0.4:
        inset = 0.04 * h
        for x0, y0, x1, y1 in ((-1, -1, 1, -1), (1, -1, 1, 1), (1, 1, -1, 1), (-1, 1, -1, -1)):
            half = w / 2 - inset, h / 2 - inset
            pen.line((x0 * half[0], y0 * half[1]), (x1 * half[0], y1 * half[1]), rng.uniform(4, 10), ink)
    left = -0.45 * w
    if rng.random() < 0.25:
        pen.ellipse(left + 0.1 * w, 0, 0.1 * w, min(0.1 * w, 0.4 * h), _ink_on(colour, rng))
        left += 0.24 * w
    rows = rng.choice((1, 2, 2, 3, 4))
    for row in range(rows):
        share = rng.uniform(0.4, 1.0) * (0.45 * w - left)
        box = left, -h / 2 + h * (row + 0.2) / rows, share, h * rng.uniform(0.4, 0.65) / rows
        pen.stamp(lines.draw(rng), box, ink)


def _lettering(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """Lines painted on what is there."""
    ink = vary(rng, rng.choice(PAINTS), 25)
    for row in range(rng.choice((1, 1, 2, 3))):
        high = rng.uniform(40, 120)
        box = -w / 2, row * 130.0 - h / 2, w * rng.uniform(0.4, 1), high
        pen.stamp(lines.draw(rng), box, ink, rng.choice((1.0, rng.uniform(0.3, 1))))


def _panel(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """A plain rectangle, perhaps with an edge."""
    colour = vary(rng, rng.choice(PAINTS), 30)
    edge = rng.choice((0.0, rng.uniform(5, 25)))
    pen.box(-w / 2 - edge, -h / 2 - edge, w + 2 * edge, h + 2 * edge, shade(colour, rng.uniform(0.3, 1.4)))
    pen.box(-w / 2, -h / 2, w, h, colour)


def _blank(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """As wide as a plate, with a few marks that are no characters."""
    colour = vary(rng, rng.choice(PAINTS), 25)
    h = w / rng.uniform(2.2, 4.7)
    pen.box(-w / 2, -h / 2, w, h, colour)
    for _ in range(rng.randint(0, 4)):
        size = rng.uniform(0.05, 0.3) * h
        pen.ellipse(rng.uniform(-0.4, 0.4) * w, rng.uniform(-0.3, 0.3) * h, size, size, _ink_on(colour, rng))


def _windows(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """Panes in rows, lit or dark, with frames."""
    columns, rows = rng.randint(1, 8), rng.randint(1, 5)
    wall, glass = (
        vary(rng, (150, 160, 170), 50),
        vary(rng, rng.choice(((40, 40, 35), (90, 190, 230), (170, 150, 130))), 25),
    )
    if rng.random() < 0.6:
        pen.box(-w / 2, -h / 2, w, h, wall)
    gap = rng.uniform(0.08, 0.4)
    for row in range(rows):
        for column in range(columns):
            x, y = -w / 2 + w * (column + gap / 2) / columns, -h / 2 + h * (row + gap / 2) / rows
            pen.box(x, y, w * (1 - gap) / columns, h * (1 - gap) / rows, vary(rng, glass, 10))


def _bars(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """Grilles, fences, crossings, blinds, barcodes: parallel bars, even or not."""
    colour, count = vary(rng, rng.choice(PAINTS), 30), rng.randint(4, 24)
    if rng.random() < 0.6:
        pen.box(-w / 2, -h / 2, w, h, vary(rng, rng.choice(PAINTS), 30))
    upright, even = rng.random() < 0.6, rng.random() < 0.6
    for i in range(count):
        thick = rng.uniform(0.3, 0.6) if even else rng.uniform(0.1, 0.9)
        if upright:
            pen.box(-w / 2 + w * i / count, -h / 2, w / count * thick, h, colour)
        else:
            pen.box(-w / 2, -h / 2 + h * i / count, w, h / count * thick, colour)


def _disc(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """A traffic sign or a wheel."""
    size, colour = rng.uniform(0.2, 0.5) * w, vary(rng, rng.choice(PAINTS), 25)
    pen.ellipse(0, 0, size, size, colour)
    pen.ellipse(0, 0, size * 0.8, size * 0.8, vary(rng, rng.choice(PAINTS), 25))
    if rng.random() < 0.6:
        pen.stamp(lines.draw(rng), (-0.5 * size, -0.25 * size, size, 0.5 * size), _ink_on(colour, rng))


def _chequers(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """Keys, tiles or a chessboard."""
    columns, rows = rng.randint(3, 12), rng.randint(2, 5)
    first, second = (vary(rng, rng.choice(PAINTS), 30) for _ in range(2))
    pen.box(-w / 2, -h / 2, w, h, first)
    keys = rng.random() < 0.5
    for row in range(rows):
        for column in range(columns):
            if keys or (row + column) % 2:
                size = (0.8, 0.8) if keys else (1.0, 1.0)
                x, y = -w / 2 + w * column / columns, -h / 2 + h * row / rows
                pen.box(x, y, w / columns * size[0], h / rows * size[1], second)
