"""Refinement of a found plate: from its rough corners to a crop of the photograph, and from the refiner's answer back.

The crop shows the plate with some of what surrounds it, straightened as if the rough corners were right. The refiner
tells, for each cell of that crop, whether a corner lies in it, and what the plate is. Refined corners may be refined
again.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.finding.rows import UPPER, joined
from service.finding.warp import frame, warped

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Form(NamedTuple):
    """The form of a refiner's input and output: height and width of its crop in pixels; the crop's width and height in
    those of the rough plate; names of colours."""

    size: tuple[int, int] = (48, 96)
    around: tuple[float, float] = (1.35, 1.9)
    colours: tuple[str, ...] = ("blue", "yellow", "green", "white", "black", "red", "other")

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the maps that the refiner puts out."""
        return self.size[0] // STRIDE, self.size[1] // STRIDE

    @property
    def channels(self) -> int:
        """Maps that the refiner puts out: HEATS of corners, then those whose means are the rest of an answer."""
        return HEATS + self.answers - PLATE

    @property
    def answers(self) -> int:
        """Numbers of an answer."""
        return COLOUR + len(self.colours)


SQUARE: Final = 2.6  # widths in heights, up to which a plate may have one row or two
UPRIGHT: Final = 0.98  # probability from which on a plate is not read upside down as well
LEVEL: Final = 0.8  # how much more text from left to right is believed: cameras and vehicles stand upright
DOUBT: Final = 0.01  # the least probability that is left for another way, whatever the refiner says
STRIDE: Final = 4  # pixels of the crop a cell of the maps
HEATS: Final = 4  # maps of the plate's corners; a cell's value is the logit of the corner lying in it

# An answer: x and y of four corners, off from where the rough ones lie, in widths and heights of the crop; a logit for
# being a plate; logits for the number of the corner that is the plate's first; logits for two rows and for being cut by
# the edge of the image; from COLOUR on, logits of colours.
CORNERS, PLATE, TURNS, ROWS, CUT, COLOUR = slice(0, 8), 8, slice(9, 13), 13, 14, 15


class Refined(NamedTuple):
    """A plate: corners (4, 2) in reading order in pixels of the image, its probability, rows, colour, whether the edge
    of the image cuts it, and the probabilities that it is not upside down, and that it has so many rows."""

    corners: Floats
    probability: float
    rows: int
    colour: str
    cut: bool
    upright: float = 1.0
    rows_sure: float = 1.0

    @property
    def width(self) -> float:
        """Pixels of its longer row."""
        a, b, c, d = self.corners
        return float(max(np.hypot(*(b - a)), np.hypot(*(c - d))))

    @property
    def aspect(self) -> float | None:
        """Its width in heights; None where the edge of the image cuts it, so that corners are guessed."""
        return None if self.cut else self._aspect

    @property
    def _aspect(self) -> float:
        a, b, c, d = self.corners
        wide, high = np.hypot(*(b - a + c - d)), np.hypot(*(d - a + c - b))
        return float(max(wide, 1e-3) / max(high, 1e-3))  # of corners on one spot, too, it has a logarithm

    @property
    def ways(self) -> "tuple[Refined, ...]":
        """As it is; with the other number of rows, where its shape may have one or two, or the refiner sees two in one
        that is too wide for them; turned by a half, where it may be upside down. That with the highest `odds` is right.
        """
        a, b, c, d = self.corners
        wide = self._aspect >= SQUARE
        # A town's name above the number looks like a row. What the shape does not allow, the texts decide.
        sure = 0.5 if wide and self.rows == 2 else self.rows_sure
        ways = [self._replace(rows_sure=sure)]
        if not wide or self.rows == 2:
            ways.append(self._replace(rows=3 - self.rows, rows_sure=1 - sure))
        leftwards = b[0] + c[0] < a[0] + d[0]
        if leftwards or self.upright < UPRIGHT:
            ways += [one._replace(corners=np.roll(one.corners, 2, 0), upright=1 - self.upright) for one in ways]
        return tuple(ways)

    def odds(self, confidence: float) -> float:
        """The odds that a text of this confidence was read in the right way.

        They are the product of those of the confidence and of three shares, each of which let fewer plates of rendered
        scenes be read in a wrong way (docs/finding.md). LEVEL for text that runs from left to right in the image,
        1 - LEVEL for text from right to left, and in between by its angle. The probability that the plate is not upside
        down. The square of that of the number of rows, because a lower row that is read alone is often a sure text.
        """
        a, b, c, d = self.corners
        x, y = b - a + c - d
        level = 0.5 + (LEVEL - 0.5) * x / max(np.hypot(x, y), 1e-9)
        upright, rows = (min(max(share, DOUBT), 1 - DOUBT) for share in (self.upright, self.rows_sure))
        return float(level * upright * rows**2 * confidence / max(1 - confidence, 1e-6))


def rectified(image: Pixels, plate: Refined, size: tuple[int, int], upper: float = UPPER) -> Pixels:
    """The plate straight, (*size, 3). Two rows are set side by side; `upper` is the share of columns of the upper."""
    if plate.rows == 1:
        return warped(image, plate.corners, size)
    return joined(image, plate.corners, size, upper)


def inside(plate: Refined, image: tuple[int, int], width: int) -> Floats:
    """Of each of the `width` columns of `rectified`, the share that lies in an image of this height and width."""
    if plate.rows == 1:
        return _inside(plate.corners, image, width)
    upper = round(UPPER * width)
    return np.concatenate([_inside(plate.corners, image, columns) for columns in (upper, width - upper)])


def _inside(corners: Floats, image: tuple[int, int], columns: int) -> Floats:
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (0.2, 0.4, 0.6, 0.8))
    matrix = cv2.getPerspectiveTransform(frame((1, 1)), corners.astype(np.float32))
    points = cv2.perspectiveTransform(np.stack((x, y), 2).astype(np.float32), matrix)
    height, width = image
    within = (points >= 0).all(2) & (points[..., 0] < width) & (points[..., 1] < height)
    return np.asarray(within.mean(0), np.float32)


def crop(image: Pixels, corners: Floats, form: Form) -> Pixels:
    """What the refiner takes for a plate with rough `corners` (4, 2); grey where the image ends."""
    return warped(image, around(corners, form), form.size)


def around(corners: Floats, form: Form) -> Floats:
    """The corners (4, 2) of the crop for a plate with these corners.

    They are extrapolated bilinearly: unlike a homography's, they stay near whatever the four corners are.
    """
    across, down = (1 - form.around[0]) / 2, (1 - form.around[1]) / 2
    u, v = np.array([across, 1 - across, 1 - across, across]), np.array([down, down, 1 - down, 1 - down])
    shares = np.stack(((1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v), 1)
    return np.asarray(shares @ corners, np.float32)


def answers(maps: Floats, form: Form) -> Floats:
    """What the refiner's maps (N, rows, columns, channels) answer, (N, answers).

    A corner is expected where its map's probabilities, over all cells, have their mean; the rest are means of cells.
    Of a map that is not finite, corners are not, either.
    """
    count = len(maps)
    heats = maps[..., :HEATS].reshape(count, -1, HEATS)
    with np.errstate(invalid="ignore"):
        shares = np.exp(heats - heats.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
    places = np.swapaxes(shares, 1, 2) @ centers(form) - rough_in_crop(form)
    return np.hstack([places.reshape(count, -1), maps[..., HEATS:].mean((1, 2))])


def centers(form: Form) -> Floats:
    """Centres of the cells of a map (cells, 2), in widths and heights of the crop."""
    rows, columns = form.cells
    y, x = np.mgrid[:rows, :columns].astype(np.float32) + np.float32(0.5)
    return np.stack([x.ravel() / columns, y.ravel() / rows], 1)


def rough_in_crop(form: Form) -> Floats:
    """Where the rough corners (4, 2) lie in the crop, in its widths and heights."""
    across, down = 0.5 / form.around[0], 0.5 / form.around[1]
    return np.array([[-across, -down], [across, -down], [across, down], [-across, down]], np.float32) + np.float32(0.5)


def in_crop(corners: Floats, rough: Floats, form: Form) -> Floats:
    """Points (n, 2) of the image in widths and heights of the crop for a plate with `rough` corners."""
    matrix = cv2.getPerspectiveTransform(around(rough, form), frame((1, 1)))
    return np.asarray(cv2.perspectiveTransform(corners[None].astype(np.float32), matrix)[0], np.float32)


def refined(answer: Floats, rough: Floats, form: Form) -> Refined:
    """What an answer (answers,) says of a plate with `rough` corners."""
    places = rough_in_crop(form) + answer[CORNERS].reshape(4, 2)
    matrix = cv2.getPerspectiveTransform(frame((1, 1)), around(rough, form))
    corners = cv2.perspectiveTransform(places[None], matrix)[0]
    turns = int(answer[TURNS].argmax())  # the plate's first corner is so many places further on
    other = answer[TURNS][(turns + 2) % 4] - answer[TURNS][turns]
    two_rows = float(1 / (1 + np.exp(-answer[ROWS])))
    return Refined(
        np.roll(corners, -turns, 0),
        float(1 / (1 + np.exp(-answer[PLATE]))),
        2 if two_rows > 0.5 else 1,
        form.colours[int(answer[COLOUR:].argmax())],
        bool(answer[CUT] > 0),
        float(1 / (1 + np.exp(other))),
        max(two_rows, 1 - two_rows),
    )
