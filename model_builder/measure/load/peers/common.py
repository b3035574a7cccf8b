"""What every peer does with an image: the service's own decoding, engine and reading. Only the server differs."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from service import artifact
from service.artifact import Artifact, check_probe
from service.backends import Backend, load
from service.finding.refine import Form, Refined, rectified
from service.finding.search import Search
from service.reading import decode
from service.reading.plates import plates_of
from service.reading.text import Reader, Reading
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

    def read(self, logits: NDArray[np.float32]) -> Reading:
        """What the logits (T, C) of a crop say."""
        return self._reader.read(logits, TOP_K)

    def _answer(self, logits: NDArray[np.float32]) -> dict[str, object]:
        reading = self.read(logits)
        return {
            "text": reading.text,
            "confidence": reading.confidence,
            "formats": reading.formats,
            "characters": [{"char": char, "confidence": sure} for char, sure in reading.characters],
            "candidates": [{"text": text, "confidence": sure} for text, sure in reading.candidates],
        }


class Finder:
    """Photographs to plates, by the finder that LPR_FINDER names. Belongs to the thread that makes it."""

    def __init__(self, model: Model) -> None:
        """Raises ArtifactError where a network does not compute its probe."""
        self._model = model
        finder, refiner = artifact.find_finder(model.settings.artifacts, model.settings.finder)
        finds, refines = finder.finder, refiner.refiner
        form = Form(refines.size, refines.around, refines.colours)
        self._search = Search(_proven(finder).infer, _proven(refiner).infer, finds.sizes, form)

    def plates(self, data: bytes) -> list[tuple[NDArray[np.uint8], Refined, tuple[int, int]]]:
        """The plates of an encoded photograph: each as the reader takes it, where it is, and the size of the image."""
        most, size = self._model.settings.max_pixels, self._model.artifact.reader.size
        image = decode.decode_photograph(decode.check(data, most), most)
        return [(rectified(image.pixels, plate, size), plate, image.size) for plate in self._search(image.pixels)]

    def answer(self, engine: Backend, data: bytes) -> dict[str, object]:
        """What a photograph shows, as JSON."""
        found = self.plates(data)
        logits = engine.infer(np.stack([crop for crop, _, _ in found])) if found else ()
        readings = [(self._model.read(row), *size, plate) for row, (_, plate, size) in zip(logits, found, strict=True)]
        return {"plates": plates_of(readings, None)[0]}


def _proven(found: Artifact) -> Backend:
    engine = load(found)
    check_probe(engine, found)
    return engine
