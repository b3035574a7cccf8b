"""Whole scenes with plates, rendered: what a finder is trained on.

A scene is drawn back to front: a background; things that are no plates; vehicles with their plates, small ones first;
what is laid over the picture; the camera (light, weather, lens, sensor, codec); at last a quarter turn and grey around
what does not fill the canvas, as serving lays a photograph on its canvas. Everything follows from the seed.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates.typefaces import Typefaces
from model_builder.render.scene_backgrounds import Backgrounds
from model_builder.render.scene_camera import photograph
from model_builder.render.scene_objects import Vehicle, distractor, stamp_of_time
from model_builder.render.scene_parts import plate_frame
from model_builder.render.scene_pen import Floats, Pen, Pixels, Point, blend, fill, pose, project, warp
from model_builder.render.scene_plates import Art, PlateArtist
from model_builder.render.scene_text import Lines
from service.finding.canvas import FILL

SMALLEST = 12.0  # pixels of a plate's longer side
_VISIBLE, _HINTED = 0.6, 0.08  # shares of a plate within the picture: to be found; neither to be found nor to be not


class Drawn(NamedTuple):
    """A plate in a scene: corners (4, 2) in pixels in reading order, and what `Art` says of it."""

    corners: Floats
    rows: int
    colour: str
    kind: str
    cut: bool  # by the edge of the picture


class Scene(NamedTuple):
    """BGR uint8 (H, W, 3), the plates to be found, and outlines of what may be found or not."""

    image: Pixels
    plates: tuple[Drawn, ...]
    unsure: tuple[Floats, ...]


class SceneRenderer:
    """Draws scenes on `photographs`; without any, on procedural backgrounds. `fonts` are folders of typefaces.

    `china` is the share of plates that are Chinese.
    """

    def __init__(self, photographs: Sequence[Path] = (), fonts: Sequence[Path] = (), china: float = 0.45) -> None:
        self.backgrounds = Backgrounds(photographs)
        self.lines = Lines(*fonts)
        self.artist = PlateArtist(self.lines, china, Typefaces(fonts) if fonts else None)

    def scene(self, seed: int, size: tuple[int, int]) -> Scene:
        """The scene of this seed on a canvas of `size` (width, height)."""
        rng, noise = random.Random(seed), np.random.Generator(np.random.SFC64(seed))
        turns = rng.choice((0, 0, 0, 0, 0, 0, 0, 1, 2, 3))
        canvas = size[::-1] if turns % 2 else size
        draft = _Draft(self, rng, noise)
        kind = rng.random()
        if kind < 0.15:
            draft.draw_crop(canvas)
        else:
            draft.draw_street(canvas if kind < 0.77 else _part(rng, canvas))
        if rng.random() < 0.2:
            stamp_of_time(rng, draft.image, self.lines)
        heights = [_height(corners) for _, corners in draft.plates]
        image = photograph(rng, noise, draft.image, min(heights, default=40.0), draft.lights)
        return _finished(image, draft, turns, size)


class _Draft:
    """A scene in the making: the image, plates with their corners, outlines of plates that are partly hidden."""

    def __init__(self, tools: SceneRenderer, rng: random.Random, noise: np.random.Generator) -> None:
        self.tools, self.rng, self.noise = tools, rng, noise
        self.image: Pixels = np.zeros((0, 0, 3), np.uint8)
        self.night = False
        self.plates: list[tuple[Art, Floats]] = []
        self.hidden: list[Floats] = []
        self.lights: list[tuple[float, float, float]] = []  # lamps that are on: x, y and radius in pixels

    def draw_street(self, size: tuple[int, int]) -> None:
        """Draw a picture of `size` with plates on vehicles and elsewhere, none to four."""
        rng = self.rng
        self._begin(size)
        for _ in range(rng.choice((0, 1, 1, 2, 3, 4, 6))):
            distractor(rng, self.image, self.tools.lines, math.exp(rng.uniform(math.log(15), math.log(0.8 * size[0]))))
        if rng.random() < 0.13:
            self.night = True
            self.image[:] = (self.image * rng.uniform(0.12, 0.6)).astype(np.uint8)
        roll = _roll(rng)
        spans = [_span(rng, max(size)) for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3, 4)))]
        for span in sorted(spans):
            self._add_plate(span, roll + rng.gauss(0, 0.03))
        if rng.random() < 0.15:
            self._add_bare_vehicle(_span(rng, max(size)), roll)
        if rng.random() < 0.25:
            self.cover(distractor(rng, self.image, self.tools.lines, math.exp(rng.uniform(2.7, 4.5))))

    def draw_crop(self, most: tuple[int, int]) -> None:
        """Draw a small photograph, at most of the given size, filled by one plate, or by a part of it."""
        rng = self.rng
        art = self.tools.artist.draw(rng)
        roll = rng.uniform(0, math.tau) if rng.random() < 0.15 else rng.gauss(0, 0.05)
        view = pose(rng, (0, 0), 1.0, roll, rng.random() < 0.4)
        quad = project(view, _corners(art.size))
        margin = rng.choice((rng.uniform(-0.05, 0.05), rng.uniform(0, 0.3), rng.uniform(0.2, 1.1)))
        around = np.ptp(quad, axis=0) * (margin + rng.uniform(0, 0.05))
        low, high = quad.min(0) - around, quad.max(0) + around
        scale = min(most / (high - low)) * rng.choice((1.0, 1.0, math.exp(rng.uniform(-1.6, 0))))
        width, height = np.clip(np.round((high - low) * scale), 8, most).astype(int).tolist()
        self._begin((width, height))
        view = np.array([[scale, 0, -low[0] * scale], [0, scale, -low[1] * scale], [0, 0, 1]]) @ view
        if rng.random() < 0.8:
            self._add_vehicle(view, art.size)
        self._put(art, view)

    def free(self, quad: Floats) -> bool:
        """Whether a plate there would cover none that is drawn already."""
        low, high = quad.min(0), quad.max(0)
        every = [corners for _, corners in self.plates] + self.hidden
        return all((high < other.min(0)).any() or (low > other.max(0)).any() for other in every)

    def cover(self, outline: Floats) -> None:
        """Something opaque was drawn: plates below are gone, those partly below unsure."""
        shape = cv2.convexHull(outline.astype(np.float32))
        kept = []
        for art, corners in self.plates:
            points = [*corners, corners.mean(0), (corners[0] + corners[1]) / 2, (corners[2] + corners[3]) / 2]
            inside = sum(cv2.pointPolygonTest(shape, (float(x), float(y)), False) >= 0 for x, y in points)
            if inside == 0:
                kept.append((art, corners))
            elif inside < len(points):
                self.hidden.append(corners)
        self.plates = kept

    def _begin(self, size: tuple[int, int]) -> None:
        self.image = np.ascontiguousarray(self.tools.backgrounds.draw(self.rng, self.noise, size))

    def _place(self) -> Point:
        height, width = self.image.shape[:2]
        return self.rng.uniform(0.03, 0.97) * width, self.rng.uniform(0.03, 0.97) * height

    def _add_plate(self, span: float, roll: float) -> None:
        """A plate whose longer side has `span` pixels, mostly on a vehicle; none where it would cover another."""
        rng = self.rng
        art = self.tools.artist.draw(rng)
        view = pose(rng, self._place(), span / max(art.size), roll, rng.random() < 0.35)
        if self.free(project(view, _corners(art.size))):
            if rng.random() < 0.85:
                self._add_vehicle(view, art.size)
            self._put(art, view)

    def _add_bare_vehicle(self, span: float, roll: float) -> None:
        """A vehicle whose plate is missing, perhaps with a plain panel in its place."""
        view = pose(self.rng, self._place(), span / 440, roll, self.rng.random() < 0.35)
        self._add_vehicle(view, (440, 140))
        if self.rng.random() < 0.5:
            grey = self.rng.uniform(10, 240)
            Pen(self.image, view).box(-220, -70, 440, 140, (grey, grey, grey))

    def _add_vehicle(self, view: Floats, size: tuple[float, float]) -> None:
        """A vehicle around a plate of `size` mm. Its paint and windows mirror a part of a background, unevenly."""
        rng = self.rng
        vehicle = Vehicle(rng, Pen(self.image, view), self.tools.lines, size)
        outline = vehicle.draw()
        self.cover(outline)
        if rng.random() < (0.6 if self.night else 0.06):
            self.lights += _seen(view, vehicle.lights)
        frame = self.image.shape[1::-1]
        low, high = (np.clip(end, 0, frame).astype(int) for end in (np.floor(outline.min(0)), np.ceil(outline.max(0))))
        width, height = (high - low).tolist()
        if width < 4 or height < 4:
            return
        mask = np.zeros((height, width), np.uint8)
        fill(mask, outline - low, (255, 255, 255))
        part = self.image[low[1] : high[1], low[0] : high[0]]
        coarse = rng.randint(2, 6)  # mirrored things look soft
        small = max(2, width // coarse), max(2, height // coarse)
        mirrored = cv2.resize(self.tools.backgrounds.draw(rng, self.noise, small), (width, height))
        blend(part, mirrored.astype(np.float32), mask * np.float32(rng.uniform(0, 0.45) / 255), (0, 0))
        ramp = np.linspace(rng.uniform(0.65, 1.25), rng.uniform(0.65, 1.25), height, dtype=np.float32)
        gain = rng.uniform(0.12, 0.6) if self.night else 1.0
        lit: NDArray[np.float32] = part * (ramp[:, None, None] * np.float32(gain))
        blend(part, lit, mask * np.float32(1 / 255), (0, 0))

    def _put(self, art: Art, view: Floats) -> None:
        """Lay the plate into the picture: its light follows its surroundings', its edge is one of several kinds."""
        rng, size = self.rng, self.image.shape[:2]
        quad = project(view, _corners(art.size))
        seen, covered = warp(art.image, quad, size, cv2.BORDER_REPLICATE), warp(art.opacity, quad, size)
        if seen is None or covered is None:
            return
        paint, opacity = seen[0].astype(np.float32), np.float32(1 / 255) * covered[0]
        inside = opacity > 0.5
        if inside.any():
            paint *= np.float32(_gain(rng, self.image, covered[1], inside, self.night))
        mode = rng.random()
        if mode < 0.2:  # a soft edge
            opacity = np.asarray(cv2.GaussianBlur(opacity, (0, 0), rng.uniform(0.4, 1.0)), np.float32)
        elif mode < 0.3:  # a hard one
            opacity = inside.astype(np.float32)
        elif mode < 0.36:  # some of what is below shines through
            opacity = opacity * np.float32(rng.uniform(0.75, 0.95))
        blend(self.image, paint, opacity, covered[1])
        if rng.random() < (0.4 if art.size[0] < 2.4 * art.size[1] else 0.05):
            plate_frame(rng, Pen(self.image, view), self.tools.lines, *art.size)
        self.plates.append((art, quad))


def _gain(rng: random.Random, image: Pixels, place: tuple[int, int], inside: NDArray[np.bool_], night: bool) -> float:
    """Brightness of a plate: tied to what is below it, and often a reflector that shines at night."""
    x, y = place
    below = image[y : y + inside.shape[0], x : x + inside.shape[1]]
    local = float(below[inside].mean())
    if night:
        return rng.choice((rng.uniform(0.15, 0.6), rng.uniform(0.5, 1.4)))
    tied = 0.45 + 0.55 * local / 128
    return min(max(rng.uniform(0.7, 1.15) * math.pow(tied, rng.uniform(0, 0.9)), 0.3), 1.4)


def _seen(view: Floats, lights: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Lamps, given in mm, in pixels."""
    centers = project(view, [(x, y) for x, y, _ in lights])
    edges = project(view, [(x + radius, y) for x, y, radius in lights])
    return [(x, y, math.dist((x, y), edge)) for (x, y), edge in zip(centers.tolist(), edges.tolist(), strict=True)]


def _corners(size: tuple[float, float]) -> list[Point]:
    """Corners of a plate of this size around (0, 0), in reading order."""
    x, y = size[0] / 2, size[1] / 2
    return [(-x, -y), (x, -y), (x, y), (-x, y)]


def _height(corners: Floats) -> float:
    """Pixels of the plate's upright sides, the shorter of them."""
    return float(min(np.hypot(*(corners[3] - corners[0])), np.hypot(*(corners[2] - corners[1]))))


def _span(rng: random.Random, longest: int) -> float:
    """Pixels of a plate's longer side: as many octaves as there are between the smallest and the whole picture."""
    return math.exp(rng.uniform(math.log(SMALLEST), math.log(0.95 * longest)))


def _roll(rng: random.Random) -> float:
    """Radians by which a camera, and all that it sees, is turned: mostly a little, at times by any angle."""
    kind = rng.random()
    if kind < 0.12:
        return rng.uniform(0, math.tau)
    return rng.gauss(0, math.radians(15 if kind < 0.3 else 4))


def _part(rng: random.Random, canvas: tuple[int, int]) -> tuple[int, int]:
    """A photograph that does not fill the canvas in one direction."""
    width, height = canvas
    share = rng.uniform(0.3, 1)
    return (width, max(16, round(height * share))) if rng.random() < 0.5 else (max(16, round(width * share)), height)


def _finished(image: Pixels, draft: _Draft, turns: int, size: tuple[int, int]) -> Scene:
    """Turn the picture counterclockwise by quarters, lay it on the canvas, and sort plates by how much is seen."""
    height, width = image.shape[:2]
    plates, unsure = [], [_turned(corners, turns, width, height) for corners in draft.hidden]
    turned = np.rot90(image, turns)
    h, w = turned.shape[:2]
    for art, corners in draft.plates:
        corners = _turned(corners, turns, width, height)
        share = _share_within(corners, w, h)
        outside = share < 0.995
        small = _height(corners) < 3.5 or np.ptp(corners, axis=0).max() < 0.75 * SMALLEST
        if share >= _VISIBLE and not small:
            plates.append(Drawn(corners, art.rows, art.colour, art.kind, outside))
        elif share > _HINTED:
            unsure.append(corners)
    canvas = np.full((size[1], size[0], 3), FILL, np.uint8)
    canvas[:h, :w] = turned
    return Scene(canvas, tuple(plates), tuple(unsure))


def _turned(corners: Floats, turns: int, width: int, height: int) -> Floats:
    """Corners in an image (height, width) that is turned counterclockwise by quarters, as np.rot90 does."""
    for _ in range(turns):
        corners = np.stack((corners[:, 1], width - corners[:, 0]), 1)
        width, height = height, width
    return corners


def _share_within(corners: Floats, width: int, height: int) -> float:
    """The share of a quad's area that lies in the picture."""
    quad = corners.astype(np.float32)
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    whole = abs(cv2.contourArea(quad))
    return float(cv2.intersectConvexConvex(quad, frame)[0]) / max(whole, 1e-6)
