"""What is printed on a plate beside its number: flags, seals, coats of arms, logos, small letters, pictures.

None of it is read. Positions and sizes are in mm on the plate.
"""

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from model_builder.plates.kinds import PALETTE
from model_builder.render import plate_letters

if TYPE_CHECKING:
    from model_builder.render.plate_art import Box, Drawing

Colour = tuple[float, float, float]  # BGR, 0..255

VIVID: Final = ("euro-blue", "blue", "red", "green", "navy", "orange", "maroon", "gold", "black", "violet")
_LETTERS: Final = "ABCDEFGHJKLMNPRSTUVWXYZ"
_BESIDE: Final = (
    "USA", "TRUCK", "VETERAN", "UNIVERSITY", "WILDLIFE", "DONATE LIFE", "We Care", "LIONS", "FIREFIGHTER", "POLICE",
    "SCHOOL", "NAVY", "ARMY", "TRK", "RTR", "ALUMNI", "Officers", "CLUB", "STATE", "Lighthouse",
)  # fmt: skip


def flag(rng: random.Random, drawing: "Drawing", box: "Box") -> None:
    left, top, width, height = box
    stripes, upright = rng.choice((2, 3, 3)), rng.random() < 0.4
    for i in range(stripes):
        part = (left, top + i * height / stripes, width, height / stripes)
        if upright:
            part = (left + i * width / stripes, top, width / stripes, height)
        drawing.canvas.rectangle(drawing.paper, part, drawing.colour(rng.choice((*VIVID, "white", "white")), 10))


def shield(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """A coat of arms."""
    wide = radius * rng.uniform(0.65, 0.95)
    points = [
        (x - wide, y - radius),
        (x + wide, y - radius),
        (x + wide, y + radius * 0.3),
        (x, y + radius),
        (x - wide, y + radius * 0.3),
    ]
    drawing.canvas.polygon(drawing.paper, points, drawing.colour("any"))
    if rng.random() < 0.7:
        box = x - wide * 0.6, y - radius * rng.uniform(0.1, 0.7), wide * 1.2, radius * rng.uniform(0.25, 0.6)
        drawing.canvas.rectangle(drawing.paper, box, drawing.colour(rng.choice(("white", "gold", "any"))))
    if rng.random() < 0.5:
        drawing.canvas.polygon(drawing.paper, points, drawing.colour(rng.choice(("black", "white", "gold"))), 2)


def discs(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """Stamped seals, one above the other."""
    small = radius * 0.98
    for dy in rng.choice(((-1.05, 1.05), (-1.05, 1.05), (0.0,), (-1.0,), (1.05,))):
        ring, inner = drawing.colour(rng.choice(("any", "silver", "white", "grey"))), drawing.colour("any", 25)
        drawing.canvas.disc(drawing.paper, x, y + dy * radius, small, ring)
        drawing.canvas.disc(drawing.paper, x, y + dy * radius, small * rng.uniform(0.4, 0.8), inner)
        if rng.random() < 0.6:
            drawing.canvas.disc(drawing.paper, x, y + dy * radius, small * 0.3, drawing.colour("white"))
        if rng.random() < 0.5:
            drawing.canvas.disc(drawing.paper, x, y + dy * radius, small, drawing.colour("black", 25), 1.5)


def outline(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """The outline of a state."""
    colour = drawing.colours.ink if rng.random() < 0.4 else drawing.colour("any", 30)
    drawing.canvas.polygon(drawing.paper, _corners(rng, x, y, radius), colour, rng.choice((0, 0, 1.5, 2.5)))


def _corners(rng: random.Random, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """An irregular polygon."""
    count = rng.randint(5, 11)
    far = [(2 * math.pi * i / count, radius * rng.uniform(0.55, 1.0)) for i in range(count)]
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for angle, r in far]


def sticker(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """A small sticker or a hologram."""
    shade = drawing.colour(rng.choice(("silver", "grey", "white", "any", "pink")), 25)
    size = radius * rng.uniform(0.35, 0.7)
    y += radius * rng.uniform(-0.9, 0.9)
    if rng.random() < 0.5:
        drawing.canvas.disc(drawing.paper, x, y, size, shade)
    else:
        drawing.canvas.rectangle(drawing.paper, (x - size, y - size, 2 * size, 2 * size), shade)


def picture(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """A tree, a fruit, a lighthouse: some shapes one over the other."""
    for _ in range(rng.randint(1, 3)):
        size, dx, dy = radius * rng.uniform(0.3, 0.8), radius * rng.uniform(-0.3, 0.3), radius * rng.uniform(-0.4, 0.4)
        colour = drawing.colour("any", 30)
        match rng.randrange(3):
            case 0:
                drawing.canvas.disc(drawing.paper, x + dx, y + dy, size, colour)
            case 1:
                points = [(x + dx - size, y + dy + size), (x + dx, y + dy - size), (x + dx + size, y + dy + size)]
                drawing.canvas.polygon(drawing.paper, points, colour)
            case _:
                box = x + dx - size / 2, y + dy - size, size, 2 * size
                drawing.canvas.rectangle(drawing.paper, box, colour)


def emblem(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """A round logo: rings, lettering along the rim, something in the middle."""
    canvas, paper = drawing.canvas, drawing.paper
    rim, inner = (
        drawing.colour(rng.choice(("any", "white", "ink"))),
        drawing.colour(rng.choice(("any", "white", "white"))),
    )
    canvas.disc(paper, x, y, radius, rim)
    canvas.disc(paper, x, y, radius * rng.uniform(0.55, 0.9), inner)
    if rng.random() < 0.6:
        small, ticks = drawing.colour(rng.choice(("white", "black", "gold", "any"))), rng.randint(9, 22)
        for i in range(ticks):
            angle = math.tau * i / ticks
            canvas.disc(
                paper, x + 0.82 * radius * math.cos(angle), y + 0.82 * radius * math.sin(angle), radius * 0.07, small
            )
    if rng.random() < 0.4:
        canvas.disc(paper, x, y, radius, drawing.colour("ink"), 1.5)
    _INSIDE[rng.randrange(len(_INSIDE))](rng, drawing, x, y, radius * rng.uniform(0.35, 0.6))


def star(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """A star of four to nine points, or a cross."""
    points, inner, turn = rng.randint(4, 9), rng.uniform(0.3, 0.7), rng.uniform(0, math.tau)
    far = [(radius if i % 2 else radius * inner, turn + math.pi * i / points) for i in range(2 * points)]
    corners = [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in far]
    drawing.canvas.polygon(drawing.paper, corners, drawing.colour(rng.choice(("any", "ink", "gold", "white"))))


def initial(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """A letter of a logo."""
    mask = plate_letters.line(
        rng, rng.choice((rng.choice(_LETTERS), rng.choice(_LETTERS) + rng.choice(_LETTERS))), drawing.typefaces
    )
    box = x - radius * 0.7, y - radius, radius * 1.4, radius * 2
    drawing.canvas.stamp(drawing.paper, mask, box, drawing.colour(rng.choice(("any", "white", "black", "ink"))))


def figure(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """The silhouette of an animal, a rider, a ship: a body with limbs."""
    colour = drawing.colour(rng.choice(("ink", "ink", "any", "black", "brown")), 25)
    body = radius * rng.uniform(0.3, 0.55)
    drawing.canvas.disc(drawing.paper, x, y, body, colour)
    for _ in range(rng.randint(3, 8)):
        angle, far, wide = rng.uniform(0, math.tau), radius * rng.uniform(0.7, 1.05), radius * rng.uniform(0.08, 0.3)
        bend = angle + rng.gauss(0, 0.5)
        elbow = x + far * 0.6 * math.cos(bend), y + far * 0.6 * math.sin(bend)
        tip = x + far * math.cos(angle), y + far * math.sin(angle)
        side = -math.sin(angle) * wide, math.cos(angle) * wide
        limb = [
            (x + side[0], y + side[1]),
            (elbow[0] + side[0], elbow[1] + side[1]),
            tip,
            (elbow[0] - side[0], elbow[1] - side[1]),
            (x - side[0], y - side[1]),
        ]
        drawing.canvas.polygon(drawing.paper, limb, colour)
    if rng.random() < 0.3:
        drawing.canvas.disc(
            drawing.paper,
            x + rng.gauss(0, 0.3) * radius,
            y + rng.gauss(0, 0.3) * radius,
            body * 0.6,
            drawing.colour("any"),
        )


def stack(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """Two or three small letters, one above the other, that tell the kind of registration."""
    count = rng.choice((2, 2, 2, 3))
    tall = min(2 * radius * rng.uniform(0.8, 1.05) / count, radius * 1.1)
    wide, ink = min(tall * rng.uniform(0.55, 0.85), radius * 0.9), rng.random() < 0.7
    colour, digits = drawing.colour("any"), rng.random() < 0.3
    for i in range(count):
        character = rng.choice("0123456789" if digits else _LETTERS)
        mask = plate_letters.line(rng, character, drawing.typefaces)
        box = x - wide / 2, y + (i - count / 2) * tall, wide, tall * rng.uniform(0.8, 0.9)
        if ink:
            drawing.canvas.paste(drawing.ink, mask, box)
        else:
            drawing.canvas.stamp(drawing.paper, mask, box, colour)


def wheelchair(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """The sign of a driver with a disability."""
    canvas, paper = drawing.canvas, drawing.paper
    colour = drawing.colour(rng.choice(("ink", "ink", "white", "blue")))
    if rng.random() < 0.3:
        canvas.rectangle(
            paper, (x - radius, y - radius, 2 * radius, 2 * radius), drawing.colour(rng.choice(("blue", "ink")))
        )
        colour = drawing.colour("white")
    line, side = radius * rng.uniform(0.12, 0.2), rng.choice((-1, 1))
    canvas.disc(paper, x - 0.1 * side * radius, y + 0.35 * radius, radius * 0.5, colour, line)
    canvas.disc(paper, x - 0.2 * side * radius, y - 0.8 * radius, radius * 0.16, colour)
    joints = [(-0.2, -0.6), (-0.1, 0.1), (0.4, 0.1), (0.6, 0.7), (0.8, 0.6), (0.5, 0.0), (0.0, 0.0)]
    canvas.polygon(paper, [(x + side * u * radius, y + v * radius) for u, v in joints], colour, line)


def bars(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """Stars over bars."""
    colour = drawing.colour(rng.choice(("red", "red", "any", "ink")))
    wide, tall = radius * rng.uniform(0.8, 1.0), radius * rng.uniform(0.18, 0.3)
    for i in range(rng.randint(1, 2)):
        drawing.canvas.rectangle(drawing.paper, (x - wide, y - 0.1 * radius + i * tall * 2, 2 * wide, tall), colour)
    for dx in (-0.6, 0.0, 0.6):
        drawing.canvas.disc(drawing.paper, x + dx * wide, y - 0.5 * radius, tall * 0.6, colour)


def logo(rng: random.Random, drawing: "Drawing", x: float, y: float, radius: float) -> None:
    """A picture with some words around it."""
    _DRAWN[rng.randrange(len(_DRAWN))](rng, drawing, x, y, radius * rng.uniform(0.6, 0.95))
    colour, tall = drawing.colour(rng.choice(("ink", "any", "black"))), radius * rng.uniform(0.16, 0.3)
    for side in rng.choice(((1,), (1, 1.35), (-1, 1), (-1,))):
        mask = plate_letters.line(rng, rng.choice(_BESIDE), drawing.typefaces)
        wide = min(tall * mask.shape[1] / mask.shape[0], 2 * radius)
        drawing.canvas.stamp(
            drawing.paper, mask, (x - wide / 2, y + side * radius * 0.85 - tall / 2, wide, tall), colour
        )


_INSIDE: Final = (star, initial, shield, figure, discs)
_DRAWN: Final = (star, figure, shield, emblem, outline, picture, initial)

SEALS: Final[dict[str, Callable[[random.Random, "Drawing", float, float, float], None]]] = {
    "discs": discs,
    "shield": shield,
    "outline": outline,
    "sticker": sticker,
    "picture": picture,
    "emblem": emblem,
    "figure": figure,
    "stack": stack,
    "wheelchair": wheelchair,
    "bars": bars,
    "logo": logo,
}


def scenery(rng: random.Random, drawing: "Drawing") -> None:
    """A pale picture behind the number, as on plates of the USA."""
    paper = np.array(drawing.colours.top, np.float32)

    def tint(most: float) -> Colour:
        vivid = np.array(PALETTE[rng.choice((*VIVID, "sky", "peach", "pink", "yellow"))], np.float32)
        blue, green, red = (paper + (vivid - paper) * rng.uniform(0.1, most)).tolist()
        return blue, green, red

    if rng.random() < 0.35:
        _sky(drawing, [tint(0.6), drawing.colours.top, tint(0.6)])
    if rng.random() < 0.35:
        _mountains(rng, drawing, tint(0.7))
    for _ in range(rng.randint(0, 4)):
        x, y = rng.random() * drawing.width, rng.uniform(0.2, 1.1) * drawing.height
        size = rng.uniform(0.12, 0.6) * drawing.height
        match rng.randrange(3):
            case 0:
                drawing.canvas.disc(drawing.paper, x, y, size, tint(0.4))
            case 1:  # a strip of land or sky
                box = 0.0, rng.choice((0.0, 0.6, 0.75)) * drawing.height, drawing.width, size
                drawing.canvas.rectangle(drawing.paper, box, tint(0.4))
            case _:
                drawing.canvas.polygon(drawing.paper, _corners(rng, x, drawing.height / 2, size), tint(0.4))


def _sky(drawing: "Drawing", colours: list[Colour]) -> None:
    """Three colours that run into each other from the top to the bottom."""
    place = np.linspace(-0.4, 1.4, drawing.canvas.size[0], dtype=np.float32).clip(0, 1)
    planes = [np.interp(place, (0, 0.5, 1), [colour[i] for colour in colours]) for i in range(3)]
    drawing.paper[:] = np.stack(planes, 1)[:, None]


def _mountains(rng: random.Random, drawing: "Drawing", colour: Colour) -> None:
    """A chain of peaks, with trees or a plain before it at times."""
    width, height = drawing.width, drawing.height
    base, peaks = rng.uniform(0.45, 0.8) * height, rng.randint(3, 9)
    ridge = [(width * i / (2 * peaks), base - (i % 2) * rng.uniform(0.05, 0.3) * height) for i in range(2 * peaks + 1)]
    drawing.canvas.polygon(drawing.paper, [(0, 1.3 * height), *ridge, (width, 1.3 * height)], colour)
    if rng.random() < 0.5:
        box = 0.0, rng.uniform(0.75, 0.9) * height, width, height
        drawing.canvas.rectangle(drawing.paper, box, drawing.colour(rng.choice(("green", "any", "white")), 30))
