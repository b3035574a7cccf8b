"""Contact sheets: rendered plates, alone or beside real crops, with their texts below."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates import glyphs
from model_builder.plates.kinds import Plate
from model_builder.render.plate import Renderer, batch
from model_builder.train.data import Crops

_SCALE, _LABEL, _GAP = 2, 20, 6  # crops are shown twice their size, with a line of text below


def sheet(seed: int, count: int, columns: int, real: Crops | None, plates: Sequence[Plate] = ()) -> NDArray[np.uint8]:
    """BGR image of `count` rendered plates, or of as many of each of the kinds `plates`; where `real` is given, every
    other row shows its crops instead."""
    renderer = Renderer()
    rows: list[list[tuple[NDArray[np.uint8], str]]] = []
    for plate in plates:
        samples = [renderer.sample(seed + number, plate) for number in range(count)]
        rows += [[(s.image, s.text) for s in samples[i : i + columns]] for i in range(0, count, columns)]
    images, texts = batch(renderer, seed, 0 if plates else count)
    rows += [
        list(zip(images[i : i + columns], texts[i : i + columns], strict=True)) for i in range(0, len(texts), columns)
    ]
    if real is not None:
        chosen = np.random.default_rng(seed).permutation(len(real.texts))[: columns * len(rows)]
        for place, start in enumerate(range(0, len(chosen), columns)):
            picked = chosen[start : start + columns]
            rows.insert(2 * place + 1, [(real.images[i], real.texts[i]) for i in picked])
    height, width = 24 * _SCALE + _LABEL + _GAP, 94 * _SCALE + _GAP
    canvas = np.full((height * len(rows), width * columns, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, (image, text) in enumerate(row):
            shown = cv2.resize(image, None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_CUBIC)
            cell = canvas[y * height : (y + 1) * height, x * width : (x + 1) * width]
            cell[: shown.shape[0], : shown.shape[1]] = shown
            _label(cell[shown.shape[0] + 1 :], text)
    return canvas


def _label(area: NDArray[np.uint8], text: str) -> None:
    """Write `text` in our own glyphs, so that no typeface is needed; what has no glyph or no room is left out."""
    known = glyphs.load()
    for index, character in enumerate(text[: (area.shape[1] - 2) // 11]):
        if character not in known:
            continue
        form = known[character][0]
        large = glyphs.rasterize(form.strokes, form.width * 0.8, 0.8)
        mask = cv2.resize(large, (9, 18), interpolation=cv2.INTER_AREA)
        area[:18, 2 + 11 * index : 11 + 11 * index] -= np.minimum(mask, 255)[:, :, None]


def write(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Write a sheet as an image of the type that `path` ends in; raises ValueError where that fails."""
    if not cv2.haveImageWriter(str(path)) or not cv2.imwrite(str(path), sheet):
        raise ValueError(f"{path} could not be written: give a name that ends in .png or .jpg in an existing folder")
