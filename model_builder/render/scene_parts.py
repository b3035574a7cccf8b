"""Parts of vehicles that are bright, framed or lettered, as plates are: lamps, wheels, badges, names, roof signs.

Each is drawn around the middle (0, 0) of a pen, at most `w` by `h` mm.
"""

import math
import random

from model_builder.render.scene_pen import Colour, Pen, Point
from model_builder.render.scene_text import Lines

_DETAILED = 7.0  # pixels of a part from which more than its outline is drawn
_CHROME: Colour = (215, 215, 215)
_GLASS: tuple[Colour, ...] = ((225, 225, 220), (190, 195, 195), (235, 230, 210), (150, 155, 160))
_REAR: tuple[Colour, ...] = ((40, 30, 190), (30, 20, 130), (60, 60, 230), (235, 235, 240), (20, 110, 230), (70, 60, 90))
_ENAMEL: tuple[Colour, ...] = ((120, 50, 20), (30, 25, 150), (25, 25, 25), (215, 215, 215), (60, 90, 30))


def shade(colour: Colour, gain: float) -> Colour:
    blue, green, red = (min(max(value * gain, 0), 255) for value in colour)
    return blue, green, red


def vary(rng: random.Random, colour: Colour, spread: float) -> Colour:
    blue, green, red = (min(max(value + rng.gauss(0, spread), 0), 255) for value in colour)
    return blue, green, red


def head_lamp(rng: random.Random, pen: Pen, w: float, h: float) -> None:
    """Clear glass over reflectors, with an edge, an orange corner and what is mirrored in it."""
    outline = _outline(rng, w, h)
    pen.polygon([(1.07 * x, 1.07 * y) for x, y in outline], shade(_CHROME, rng.choice((0.1, 0.3, 0.9))))
    glass = vary(rng, rng.choice(_GLASS), 15)
    pen.polygon(outline, shade(glass, rng.uniform(0.5, 1)))
    if pen.pixels(w) < _DETAILED:
        return
    if rng.random() < 0.4:
        side = rng.choice((-1, 1))
        pen.box(side * 0.33 * w - 0.1 * w, -0.28 * h, 0.2 * w, 0.5 * h, vary(rng, (30, 130, 235), 20))
    for _ in range(rng.choice((0, 4, 9))):  # ribs of the glass
        x = rng.uniform(-0.4, 0.4) * w
        pen.line((x, -0.3 * h), (x, 0.3 * h), 0.012 * w, shade(glass, rng.uniform(0.6, 1.2)))
    for x in rng.choice(((0.0,), (-0.22, 0.2), (-0.25, 0.02, 0.27))):
        size = min(0.42 * h, 0.28 * w) * rng.uniform(0.6, 1)
        for share in sorted(rng.sample((1.0, 0.85, 0.65, 0.5, 0.35), 3), reverse=True):
            pen.ellipse(x * w, 0, size * share, size * share, shade(_CHROME, rng.uniform(0.1, 1.15)))
        pen.ellipse(x * w, 0, 0.15 * size, 0.15 * size, (250, 250, 250))
    _mirrored(rng, pen, w, h)


def rear_lamp(rng: random.Random, pen: Pen, w: float, h: float) -> None:
    """Segments in red, white and orange, with ribs, round lamps or rows of diodes."""
    outline = _outline(rng, w, h)
    base = vary(rng, rng.choice(_REAR[:3]), 15)
    pen.polygon([(1.06 * x, 1.06 * y) for x, y in outline], shade(base, rng.choice((0.3, 0.6))))
    pen.polygon(outline, base)
    if pen.pixels(w) < _DETAILED:
        return
    upright, count = rng.random() < 0.4, rng.randint(1, 4)
    for i in range(count):
        colour = vary(rng, rng.choice(_REAR), 15)
        start, length = -0.42 + 0.84 * i / count, 0.84 / count * rng.uniform(0.5, 0.95)
        x, y, wide, high = (start, -0.35, length, 0.7) if upright else (-0.35, start, 0.7, length)
        if rng.random() < 0.3:
            size = 0.4 * min(wide * w, high * h)
            pen.ellipse((x + wide / 2) * w, (y + high / 2) * h, size, size, colour)
        else:
            pen.box(x * w, y * h, wide * w, high * h, colour)
    if rng.random() < 0.5:
        columns, rows = rng.randint(3, 14), rng.randint(1, 4)
        light = shade(base, rng.choice((0.6, 1.6, 3)))
        for i in range(columns * rows):
            x, y = (i % columns + 0.5) / columns - 0.5, (i // columns + 0.5) / rows - 0.5
            size = 0.25 * min(w / columns, h / rows)
            pen.ellipse(0.8 * x * w, 0.7 * y * h, size, size, light)
    _mirrored(rng, pen, w, h)


def wheel(rng: random.Random, pen: Pen, w: float, h: float) -> None:
    """A tyre and a rim with spokes, or a cap."""
    size = min(w, h) / 2
    tyre, rim = vary(rng, (32, 32, 32), 10), shade(_CHROME, rng.uniform(0.4, 1.1))
    pen.ellipse(0, 0, size, size, tyre)
    inner = size * rng.uniform(0.62, 0.82)
    pen.ellipse(0, 0, inner, inner, rim)
    if pen.pixels(w) < _DETAILED:
        return
    spokes, first, share = rng.randint(4, 16), rng.uniform(0, math.tau), rng.uniform(0.3, 0.75)
    gap = shade(tyre, rng.uniform(0.6, 2.2))
    for i in range(spokes):
        angle, half = first + i * math.tau / spokes, share * math.pi / spokes
        pen.polygon(
            [_polar(0.28 * inner, angle), _polar(0.9 * inner, angle - half), _polar(0.9 * inner, angle + half)], gap
        )
    hub = inner * rng.uniform(0.12, 0.28)
    pen.ellipse(0, 0, hub, hub, shade(rim, rng.uniform(0.4, 1.1)))


def badge(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """A maker's mark: rings, strokes in a ring, an oval with a name, or a shield."""
    h = min(h, w)
    chrome, enamel = shade(_CHROME, rng.uniform(0.6, 1.15)), vary(rng, rng.choice(_ENAMEL), 15)
    kind = rng.random()
    if kind < 0.35:  # a name in an oval
        pen.ellipse(0, 0, 0.5 * w, 0.5 * h, chrome)
        pen.ellipse(0, 0, 0.46 * w, 0.44 * h, enamel)
        ink = (235, 235, 235) if sum(enamel) < 400 else (30, 30, 30)
        pen.stamp(lines.draw(rng), (-0.34 * w, -0.2 * h, 0.68 * w, 0.4 * h), ink)
    elif kind < 0.7:  # strokes in a ring
        pen.ellipse(0, 0, 0.5 * w, 0.5 * h, chrome)
        pen.ellipse(0, 0, 0.42 * w, 0.41 * h, enamel)
        for _ in range(rng.randint(1, 4)):
            a, b = rng.uniform(0, math.tau), rng.uniform(0, math.tau)
            start, end = (
                (0.42 * w * math.cos(a), 0.41 * h * math.sin(a)),
                (0.42 * w * math.cos(b), 0.41 * h * math.sin(b)),
            )
            pen.line(start, end, 0.08 * h, chrome)
        if rng.random() < 0.4:
            pen.ellipse(0, 0, 0.2 * w, 0.36 * h, chrome)
            pen.ellipse(0, 0, 0.14 * w, 0.28 * h, enamel)
    elif kind < 0.85:  # rings side by side
        count = rng.randint(2, 4)
        size = 0.62 * w / count
        for i in range(count):
            x = (i - (count - 1) / 2) * (w - 2 * size) / max(count - 1, 1)
            pen.ellipse(x, 0, size, size, chrome)
            pen.ellipse(x, 0, 0.8 * size, 0.8 * size, enamel)
    else:
        pen.polygon(
            [(-0.4 * w, -0.5 * h), (0.4 * w, -0.5 * h), (0.35 * w, 0.2 * h), (0, 0.5 * h), (-0.35 * w, 0.2 * h)], chrome
        )
        pen.box(-0.3 * w, -0.4 * h, 0.6 * w, 0.25 * h, enamel)
        pen.box(-0.3 * w, -0.1 * h, 0.3 * w, 0.3 * h, vary(rng, rng.choice(_ENAMEL), 15))


def name(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """Letters of chrome, that throw a shadow, perhaps on a strip."""
    h = min(h, w / 2)
    if rng.random() < 0.1:
        pen.box(-0.52 * w, -0.6 * h, 1.04 * w, 1.2 * h, shade(_CHROME, rng.choice((0.1, 0.3, 0.9))))
    mask, off = lines.draw(rng), 0.05 * h
    pen.stamp(mask, (-w / 2 + off, -h / 2 + off, w, h), (20, 20, 20))
    pen.stamp(mask, (-w / 2, -h / 2, w, h), shade(_CHROME, rng.uniform(0.55, 1.15)))


def roof_sign(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """What taxis carry: a box that narrows upwards, with a line or two."""
    h = min(h, 0.45 * w)
    colour = vary(rng, rng.choice(((240, 240, 240), (40, 200, 245), (200, 120, 30), (40, 40, 200), (60, 150, 60))), 20)
    narrow = rng.uniform(0.75, 0.95)
    pen.polygon([(-narrow * w / 2, -h / 2), (narrow * w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)], colour)
    pen.box(-w / 2, 0.4 * h, w, 0.2 * h, (40, 40, 40))
    ink = rng.choice(((25, 25, 25), (40, 40, 200))) if sum(colour) > 400 else (240, 240, 240)
    rows = rng.choice((1, 1, 2))
    for row in range(rows):
        pen.stamp(lines.draw(rng), (-0.36 * w, -0.4 * h + 0.8 * h * row / rows, 0.72 * w, 0.66 * h / rows), ink)


def plate_frame(rng: random.Random, pen: Pen, lines: Lines, w: float, h: float) -> None:
    """A dealer's frame around a plate of this size, with lettering above or below.

    Its outer edge lies up to 0.12 `h` outside the plate, its inner one on the plate's edge or up to 0.14 `h` inside.
    """
    colour = shade(_CHROME, rng.choice((0.08, 0.12, 0.12, 0.5, 0.9, 1.15)))
    if rng.random() < 0.15:
        colour = vary(rng, rng.choice(_ENAMEL), 20)
    plain = (235, 235, 235) if sum(colour) < 380 else (25, 25, 25)
    ink = rng.choice((plain, plain, plain, (40, 200, 240), (60, 50, 210), (150, 70, 30)))
    out, inner = _frame_width(rng, 0.06) * h, rng.uniform(0, 0.05) * h
    right = w / 2 + out
    for side in (-1, 1):
        pen.box(min(side * right, side * (w / 2 - inner)), -h / 2, out + inner, h, colour)
    for end in (-1, 1):
        above, covered = _frame_width(rng, 0.12) * h, rng.uniform(0, rng.choice((0.04, 0.14))) * h
        outer, edge, round_off = h / 2 + above, h / 2 - covered, rng.uniform(0, 0.8) * (above + covered)
        bar = [(right, edge), (right, outer - round_off), (right - round_off, outer)]
        bar = [*bar, *((-x, y) for x, y in reversed(bar))]
        pen.polygon([(x, end * y) for x, y in bar], colour)
        pen.box(-w / 2, end * edge - 0.006 * h, w, 0.012 * h, shade(colour, rng.choice((0.5, 0.7, 1.3))))
        tall = outer - edge
        if tall > 0.08 * h and rng.random() < 0.75:
            share, middle = rng.uniform(0.3, 0.9) * w, end * (outer + edge) / 2
            pen.stamp(lines.draw(rng), (-share / 2, middle - 0.38 * tall, share, 0.76 * tall), ink)


def _frame_width(rng: random.Random, most: float) -> float:
    """How far a frame reaches out of a plate: mostly little."""
    return most * math.pow(rng.random(), 1.5)


def _polar(radius: float, angle: float) -> Point:
    return radius * math.cos(angle), radius * math.sin(angle)


def _outline(rng: random.Random, w: float, h: float) -> list[Point]:
    """Between an ellipse and a box, leaning, and narrower at one end."""
    power, lean, narrow = rng.uniform(0.25, 1), rng.uniform(-0.3, 0.3), rng.uniform(-0.35, 0.35)
    points = []
    for i in range(16):
        c, s = math.cos(i * math.tau / 16), math.sin(i * math.tau / 16)
        x, y = math.copysign(abs(c) ** power, c) / 2, math.copysign(abs(s) ** power, s) / 2
        points.append((x * w, (y * (1 + 2 * narrow * x) + lean * x) * h))
    return points


def _mirrored(rng: random.Random, pen: Pen, w: float, h: float) -> None:
    for _ in range(rng.choice((0, 1, 2))):
        x, y, size = rng.uniform(-0.3, 0.3) * w, rng.uniform(-0.3, 0.1) * h, rng.uniform(0.03, 0.14) * h
        pen.ellipse(x, y, size * rng.uniform(1, 3), size, (252, 252, 252))
