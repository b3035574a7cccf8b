"""What every peer does with an image: the service's own decoding, engine and reading. Only the server differs."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from service import artifact
from service.artifact import check_probe
from service.backends import Backend
from service.reading import decode
from service.reading.text import Reader
from service.settings import Settings

TOP_K = 3
MAX_BATCH = 8  # a batch of the engines here takes the time of its rows one by one, so a longer one only waits longer


def quiet() -> None:
    """As `service.app` sets OpenCV."""
    cv2.setNumThreads(1)


class Model:
    """The artifact that LPR_VARIANT names, proven by its probe. `engine` is loaded by the caller, on its own thread."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.artifact = artifact.find(self.settings.artifacts, self.settings.variant)
        self._reader = Reader.of(self.artifact.reader)

    def prove(self, engine: Backend) -> None:
        """Raises ArtifactError where the engine does not compute the probe."""
        check_probe(engine, self.artifact)

    def crop(self, data: bytes) -> NDArray[np.uint8]:
        """An encoded image to the network's input (H, W, 3)."""
        return decode.load(data, self.settings.max_pixels, self.artifact.reader.size)

    def answers(self, engine: Backend, crops: Sequence[NDArray[np.uint8]]) -> list[dict[str, object]]:
        """What each crop says, as JSON."""
        return [self._answer(row) for row in engine.infer(np.stack(crops))]

    def _answer(self, logits: NDArray[np.float32]) -> dict[str, object]:
        reading = self._reader.read(logits, TOP_K)
        return {
            "text": reading.text,
            "confidence": reading.confidence,
            "formats": reading.formats,
            "characters": [{"char": char, "confidence": sure} for char, sure in reading.characters],
            "candidates": [{"text": text, "confidence": sure} for text, sure in reading.candidates],
        }
