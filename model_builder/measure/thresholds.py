"""What a least confidence keeps and drops: the table from which `min_confidence` is chosen."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_builder.measure import blocks
from model_builder.plates import CROP
from model_builder.train.data import Crops
from service.errors import InputError
from service.reading import decode
from service.reading.text import Reading

LEAST = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
_MAX_PIXELS = 100_000_000


class Judged(NamedTuple):
    """A reading's confidence, 0 where no text was found, and whether the text is the true one."""

    confidence: float
    exact: bool


def judge(readings: Iterable[Reading], texts: Iterable[str]) -> list[Judged]:
    """Readings beside the true texts."""
    return [
        Judged(reading.confidence if reading.text else 0.0, reading.text == text)
        for reading, text in zip(readings, texts, strict=True)
    ]


def whole(paths: Sequence[Path]) -> Crops:
    """Whole images, as somebody sends them who cuts no plate out: files, and all files in folders.

    What can't be read is left out with a line on the console. Raises ValueError where nothing is left.
    """
    images = []
    for file in (file for path in paths for file in (sorted(path.rglob("*.*")) if path.is_dir() else [path])):
        try:
            images.append(decode.load(file.read_bytes(), _MAX_PIXELS, CROP))
        except (InputError, OSError) as error:
            print(f"{file} left out: {error}")
    if not images:
        raise ValueError(f"there is no image in {', '.join(map(str, paths))}")
    return Crops(np.stack(images), [""] * len(images))


def table(rendered: list[Judged], photographs: list[Judged], nothing: list[Judged]) -> str:
    """Markdown, of each least confidence: the share of plates that it keeps, the exact ones among those, and the share
    of all exact ones that it keeps; and the share that it keeps of images that show `nothing` to read."""
    plates = {"rendered": rendered} | ({"photographs": photographs} if photographs else {})
    titles = ["confidence at least"]
    for name, judged in plates.items():
        titles += [f"keeps of {len(judged):,} {name}", "of which exact", "exact ones kept"]
    if nothing:
        titles.append(f"keeps of {len(nothing):,} without a plate")
    return blocks.table(titles, [list(_row(least, plates, nothing)) for least in LEAST])


def _row(least: float, plates: dict[str, list[Judged]], nothing: list[Judged]) -> Iterator[str]:
    yield f"{least:g}"
    for judged in plates.values():
        kept = [one for one in judged if one.confidence >= least]
        exact = sum(one.exact for one in kept)
        yield from (_percent(len(kept), len(judged)), _percent(exact, len(kept)))
        yield _percent(exact, sum(one.exact for one in judged))
    if nothing:
        yield _percent(sum(one.confidence >= least for one in nothing), len(nothing))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
