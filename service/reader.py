"""Reader of licence plates for use in a program, without a server.

::

    from service import Reader

    with Reader() as reader:
        for plate in reader.read("a.jpg"):
            print(plate.text, plate.confidence)

Images are decoded, computed and read by the same functions as in the server, so the results are those of
POST /recognize.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service import artifact
from service.artifact import Grammar
from service.backends import Backend
from service.errors import BodyTooLarge, InputError, UndecodableImage
from service.pipeline.inference_threads import Crew
from service.reading import decode, geometry
from service.reading.geometry import Pixels
from service.reading.plates import doubt, plate, restrict
from service.reading.text import Reader as TextReader
from service.settings import Settings
from service.wire import MIN_CONFIDENCE, Plate

Image = bytes | bytearray | str | os.PathLike[str] | Pixels


@dataclass(frozen=True)
class ImageResult:
    """One image: its plates, or a note why there is none, or the error that kept it from being read.

    `truncated`: the file ends before its image does, and what is missing was read as grey.
    """

    plates: list[Plate] = field(default_factory=list)
    note: str | None = None
    truncated: bool = False
    error: InputError | OSError | None = None


class Reader:
    """A loaded, proven model that reads plates. Threads may share it.

    An image is a path, the bytes of an image file, or BGR pixels as OpenCV has them, uint8 (height, width, 3). As in
    the server, it is a crop of one plate.
    """

    def __init__(
        self, variant: str | None = None, artifacts: str | os.PathLike[str] | None = None, *, threads: int = 1
    ) -> None:
        """Load `variant` from the folder `artifacts`, by default those of LPR_VARIANT and LPR_ARTIFACTS.

        Each of the `threads` owns an engine. One is enough for `read`; `read_all` keeps all of them busy. LPR_MAX_BYTES
        and LPR_MAX_PIXELS bound the images as in the server. Raises ArtifactError where the model cannot be loaded or
        proven, ValueError for a setting that makes no sense.
        """
        given: dict[str, Any] = {"variant": variant, "artifacts": artifacts, "threads": threads}
        self._settings = Settings(**{name: value for name, value in given.items() if value is not None})
        found = artifact.find(self._settings.artifacts, self._settings.variant)
        self.manifest = found.manifest
        self._texts = TextReader.of(found.manifest)
        self._ahead = 2 * threads * found.manifest.max_batch
        self._closed = False
        self._crew: Crew[_Item] = Crew(found, threads, self._work, _fail, found.manifest.max_batch)
        self.engine = self._crew.engine

    def read(
        self, image: Image, *, top_k: int = 3, formats: Sequence[str] = (), min_confidence: float = MIN_CONFIDENCE
    ) -> list[Plate]:
        """The plates on one image; an empty list where no text was read with `min_confidence`.

        A plate has its `top_k` most probable texts as candidates. With `formats`, names of formats of the manifest,
        every plate is read as a text of one of them. Raises InputError for an image that cannot be read and for
        a format that is not known, OSError for a file that cannot be opened.
        """
        (result,) = self.read_all([image], top_k=top_k, formats=formats, min_confidence=min_confidence)
        if result.error:
            raise result.error
        return result.plates

    def read_all(
        self,
        images: Iterable[Image],
        *,
        top_k: int = 3,
        formats: Sequence[str] = (),
        min_confidence: float = MIN_CONFIDENCE,
    ) -> Iterator[ImageResult]:
        """Results of many images in their order, as they are read; an image that cannot be read has its error there.

        The parameters are those of `read`. Only a few images are held in memory at a time.
        """
        only = restrict(self.manifest.grammar, ",".join(formats) or None)
        return self._in_order(_Item(image, top_k, only, min_confidence) for image in images)

    def close(self) -> None:
        """Free the engines; nothing can be read afterwards."""
        if not self._closed:
            self._closed = True
            self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _in_order(self, items: "Iterable[_Item]") -> Iterator[ImageResult]:
        waiting: deque[_Item] = deque()
        for item in items:
            if self._closed:
                raise ValueError("This reader is closed: make another one.")
            waiting.append(item)
            self._crew.put([item])
            if len(waiting) > self._ahead:
                yield waiting.popleft().result.result()
        for item in waiting:
            yield item.result.result()

    def _work(self, engine: Backend, items: "list[_Item]") -> None:
        """Read what waited together, on a thread of the crew."""
        ready = [item for item in items if self._prepare(item)]
        if not ready:
            return
        logits = engine.infer(np.array([item.crop for item in ready]))
        for item, row in zip(ready, logits, strict=True):
            reading = self._texts.read(row, item.top_k, item.only)
            note = doubt(reading, item.min_confidence)
            plates = [] if note else [Plate.model_validate(plate(reading, *item.size))]
            item.result.set_result(ImageResult(plates, note, item.truncated))

    def _prepare(self, item: "_Item") -> bool:
        """Make an image ready for the network; False where it cannot be read, which its result tells."""
        try:
            decoded = self._decode(item.image)
        except (InputError, OSError) as error:
            item.result.set_result(ImageResult(error=error))
            return False
        item.crop = geometry.prepare(decoded.pixels, self.manifest.size)
        item.size, item.truncated = decoded.size, decoded.truncated
        return True

    def _decode(self, image: Image) -> decode.Decoded:
        if isinstance(image, np.ndarray):
            return _pixels(image)
        data = image if isinstance(image, bytes | bytearray) else _content(Path(image), self._settings.max_bytes)
        most = self._settings.max_pixels
        return decode.decode_plate(decode.check(data, most), most, self.manifest.size)


@dataclass(eq=False)
class _Item:
    """One image, first as it came, then as the network's input uint8 (H, W, 3), then what became of it."""

    image: Image
    top_k: int
    only: Grammar | None
    min_confidence: float
    crop: NDArray[np.uint8] | None = None
    size: tuple[int, int] = (0, 0)  # width and height in pixels
    truncated: bool = False
    result: "Future[ImageResult]" = field(default_factory=Future)


def _pixels(image: Pixels) -> decode.Decoded:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UndecodableImage(
            f"The array is {image.dtype} {image.shape}: BGR pixels are uint8 (height, width, 3), as cv2.imread gives."
        )
    return decode.Decoded(np.ascontiguousarray(image), (image.shape[1], image.shape[0]))


def _content(path: Path, limit: int) -> bytes:
    if (size := path.stat().st_size) > limit:
        raise BodyTooLarge(f"The file has {size:,} bytes; LPR_MAX_BYTES allows {limit:,}.")
    return path.read_bytes()


def _fail(items: list[_Item], error: Exception) -> None:
    for item in items:
        if not item.result.done():
            item.result.set_exception(error)
