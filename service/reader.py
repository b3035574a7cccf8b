"""Reader of licence plates for use in a program, without a server.

::

    from service import Reader

    with Reader() as reader:
        for plate in reader.read("a.jpg"):
            print(plate.text, plate.confidence)

Images go through the same stages as in the server, so the results are those of POST /recognize.
"""

import atexit
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from service import artifact, settings
from service.artifact import Grammar
from service.backends import Backend
from service.errors import BadParameter, BodyTooLarge, InputError, UndecodableImage
from service.finding.cover import How
from service.pipeline.inference_threads import Crew
from service.pipeline.items import Item, Redacted, Request, Seen, fail
from service.pipeline.stages import Check, Each, Stage, decoding, line, reading, search_with
from service.reading import text
from service.reading.geometry import Pixels
from service.reading.plates import MOST_TEXTS, plates_of, restrict
from service.settings import Settings
from service.wire import Plate

Image = bytes | bytearray | str | os.PathLike[str] | Pixels | Callable[[], bytes]


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

    An image is a path, the bytes of an image file, BGR pixels as OpenCV has them, uint8 (height, width, 3), or a
    function that returns the bytes when it is the image's turn. As in the server, it is a photograph, or a crop of one
    plate.
    """

    def __init__(
        self,
        variant: str | None = None,
        artifacts: str | os.PathLike[str] | None = None,
        *,
        finder: str | None = None,
        threads: int = 1,
    ) -> None:
        """Load `variant`, and `finder` that finds the plates in photographs, from the folder `artifacts`.

        By default they are those of LPR_VARIANT, LPR_FINDER and LPR_ARTIFACTS; with an empty `finder`, every image is a
        crop of one plate.

        Each of the `threads` owns an engine. One is enough for `read`; `read_all` keeps all of them busy. LPR_MAX_BYTES
        and LPR_MAX_PIXELS bound the images as in the server. Raises ArtifactError where the model cannot be loaded or
        proven, ValueError for a setting that makes no sense.
        """
        for old in settings.warnings():
            warnings.warn(old, DeprecationWarning, stacklevel=2)
        given: dict[str, Any] = {"variant": variant, "artifacts": artifacts, "finder": finder, "threads": threads}
        given = {name: value for name, value in given.items() if value is not None}
        self._settings = Settings(**given | ({"finder": None} if finder == "" else {}))
        found = artifact.find(self._settings.artifacts, self._settings.variant)
        self.manifest = found.reader
        name = self._settings.finder
        self._finder = artifact.find_finder(self._settings.artifacts, name) if name else None
        self._entry: list[Stage] = [Each("open", self._open), Each("decode", Check(self._settings.max_pixels))]
        self._texts = text.Reader.of(self.manifest)
        self._ahead = 2 * threads * self.manifest.max_batch
        self._closed = False
        self._crew: Crew[Item] = Crew(
            (found, *(self._finder or ())), threads, self._work, fail, self.manifest.max_batch
        )
        self.engine = self._crew.engine
        atexit.register(self.close)  # a thread in an engine when Python ends would abort the process

    def read(
        self,
        image: Image,
        *,
        top_k: int = 3,
        formats: str | Sequence[str] = (),
        regions: str | Sequence[str] = (),
        min_confidence: float | None = None,
        find: bool = True,
    ) -> list[Plate]:
        """The plates on one image, the largest first; an empty list where there is none.

        What is too unsure is left out; with `min_confidence`, every text of less confidence.

        The image is a photograph, or a crop of one plate if not `find`.

        A plate has its `top_k` most probable texts as candidates. With `formats`, names of formats of the manifest,
        every plate is read as a text of one of them; with `regions`, codes of countries (by default, those of
        LPR_REGIONS), as one of these. Raises InputError for an image that cannot be read, for a format or a region that
        is not known, and for a `top_k` that is not from 1 to 10 or a `min_confidence` not from 0 to 1; OSError for a
        file that cannot be opened.
        """
        (result,) = self.read_all(
            [image], top_k=top_k, formats=formats, regions=regions, min_confidence=min_confidence, find=find
        )
        if result.error:
            raise result.error
        return result.plates

    def read_all(
        self,
        images: Iterable[Image],
        *,
        top_k: int = 3,
        formats: str | Sequence[str] = (),
        regions: str | Sequence[str] = (),
        min_confidence: float | None = None,
        find: bool = True,
    ) -> Iterator[ImageResult]:
        """Results of many images in their order, as they are read; an image that cannot be read has its error there.

        The parameters are those of `read`. Only a few images are held in memory at a time.
        """
        if top_k not in range(1, MOST_TEXTS + 1):
            raise BadParameter(f"Parameter top_k: {top_k!r} is no whole number from 1 to {MOST_TEXTS}.")
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise BadParameter(f"Parameter min_confidence: {min_confidence!r} is no number from 0 to 1.")
        only = restrict(self.manifest.grammar, _named(formats), _named(regions), self._settings.regions)
        find = find and self._finder is not None
        return self._in_order((_Asked(image, top_k, only, find) for image in images), min_confidence)

    def redact(self, image: Image, how: How = "blur") -> Redacted:
        """The image, encoded again with its plates covered, in its format (HEIC and pixels as JPEG), without metadata.

        Raises InputError for an image that cannot be read, OSError for a file that cannot be opened, and BadParameter
        where this reader has no finder.
        """
        if self._finder is None:
            raise BadParameter("This reader has no finder, so it cannot cover plates: LPR_FINDER names one.")
        if self._closed:
            raise ValueError("This reader is closed: make another one.")
        asked = _Asked(image, 1, None, True, how)
        self._crew.put(asked.request.items)
        return asked.redacted()

    def close(self) -> None:
        """Free the engines; nothing can be read afterwards."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _in_order(self, images: "Iterable[_Asked]", min_confidence: float | None) -> Iterator[ImageResult]:
        waiting: deque[_Asked] = deque()
        for image in images:
            if self._closed:
                raise ValueError("This reader is closed: make another one.")
            waiting.append(image)
            self._crew.put(image.request.items)
            if len(waiting) > self._ahead:
                yield waiting.popleft().result(min_confidence)
        for image in waiting:
            yield image.result(min_confidence)

    def _work(self, engine: Backend, *finder: Backend) -> Callable[[Sequence[Item]], None]:
        front = decoding(self._settings.max_pixels, self.manifest.size, search_with(self._finder, finder))
        back = reading(self._texts, self.manifest.size, engine, lambda images, cpu_s: None)
        return line([*self._entry, *front, *back])

    def _open(self, item: Item) -> Sequence[bytes | bytearray | Pixels]:
        """The bytes of the image, or its pixels."""
        match item.value:
            case np.ndarray() as pixels:
                return (_pixels(pixels),)
            case bytes() | bytearray() as data:
                content = data
            case function if callable(function):
                content = function()
            case path:
                content = _content(Path(path), self._settings.max_bytes)
        _check_bytes(len(content), self._settings.max_bytes)
        return (content,)


class _Asked:
    """One image, as a request of its own."""

    def __init__(self, image: Image, top_k: int, only: Grammar | None, find: bool, cover: How | None = None) -> None:
        self._complete: Future[None] = Future()
        self.request = Request([image], self._done, top_k, only, find=find, cover=cover)

    def _done(self, error: Exception | None) -> None:
        if not self._complete.done():
            if error:
                self._complete.set_exception(error)
            else:
                self._complete.set_result(None)

    def result(self, min_confidence: float | None) -> ImageResult:
        """What became of it, as soon as that is known."""
        try:
            self._complete.result()
        except OSError as error:  # the file cannot be opened
            return ImageResult(error=error)
        (outcomes,) = self.request.outcomes()
        seen = [outcome for outcome in outcomes if isinstance(outcome, Seen)]
        for outcome in outcomes:
            if isinstance(outcome, InputError):
                return ImageResult(error=outcome)
        plates, note = plates_of([(one.reading, one.width, one.height, one.plate) for one in seen], min_confidence)
        truncated = any(not isinstance(one, InputError) and one.truncated for one in outcomes)
        return ImageResult([Plate.model_validate(plate) for plate in plates], note, truncated)

    def redacted(self) -> Redacted:
        """The covered image, as soon as it is there; raises what kept it from being covered."""
        self._complete.result()
        ((outcome,),) = self.request.outcomes()
        if isinstance(outcome, InputError):
            raise outcome
        assert isinstance(outcome, Redacted)
        return outcome


def _named(names: str | Sequence[str]) -> str | None:
    """Names as a query parameter holds them; None where there are none."""
    return names if isinstance(names, str) else ",".join(names) if names else None


def _pixels(image: Pixels) -> Pixels:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UndecodableImage(
            f"The array is {image.dtype} {image.shape}: BGR pixels are uint8 (height, width, 3), as cv2.imread gives."
        )
    return np.ascontiguousarray(image)


def _content(path: Path, limit: int) -> bytes:
    _check_bytes(path.stat().st_size, limit)  # before it takes memory
    return path.read_bytes()


def _check_bytes(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"The image has {size:,} bytes; LPR_MAX_BYTES allows {limit:,}.")
