"""What tests of video share: readings, plates, engines that see what they are told, and frames."""

from collections.abc import Sequence

import numpy as np

from service.artifact import Format, Grammar
from service.finding.refine import Refined
from service.reading.text import Candidate, Reading
from service.video.engines import Box
from service.video.sources import PixelFrame

DIGITS, LETTERS = "0123456789", "ABCDEFGHJKLMNPQRSTUVWXYZ"
GRAMMAR = Grammar(formats=(Format(name="cn-standard", templates=(("京沪", LETTERS, *[DIGITS + LETTERS] * 5),)),))
HEIGHT, WIDTH = 720, 1280


def reading(*texts: tuple[str, float]) -> Reading:
    """A reading of these texts, the most probable first."""
    candidates = tuple(Candidate(*text) for text in texts)
    return Reading(candidates[0].text, candidates[0].confidence, ("cn-standard",), (), candidates)


def plate(x: float, y: float, width: float = 100, cut: bool = False) -> Refined:
    """A plate whose top left is there."""
    height = width / 3
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float32)
    return Refined(corners, 0.99, 1, "blue", cut)


class Seeing:
    """Engines that find and read what is written in frames: see `frame`."""

    grammar = GRAMMAR

    def __init__(self) -> None:
        self.shown: list[tuple[Refined, Reading]] = []
        self.reads = 0
        self.boxes: list[Box] = []

    def find(self, image: np.ndarray, box: Box) -> list[Refined]:
        self.boxes.append(box)
        inside = [one for one, _ in self.shown if box.left <= one.corners[0, 0] < box.right]
        return [one for one in inside if box.top <= one.corners[0, 1] < box.bottom]

    def read(self, image: np.ndarray, plates: Sequence[Refined]) -> list[Reading]:
        self.reads += len(plates)
        return [next(text for seen, text in self.shown if seen is one) for one in plates]

    def frame(self, time: float, *shown: tuple[Refined, Reading]) -> PixelFrame:
        """A frame that shows plates as white boxes on black."""
        self.shown = list(shown)
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for one, _ in shown:
            (left, top), (right, bottom) = (np.maximum(at, 0).astype(int) for at in (one.corners[0], one.corners[2]))
            image[top:bottom, left:right] = 255
        return PixelFrame(time, image)
