"""Contact sheets of rendered scenes, with the corners of their plates, alone or beside photographs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.render.scene import Scene, SceneRenderer
from model_builder.tasks.labelled_scenes import LabelledScenes

SIZE: Final = (320, 240)  # width and height of a scene on the sheet
_GAP: Final = 6
_FIRST, _OTHERS = (
    (40, 40, 230),
    (60, 200, 60),
)  # colours of the side from the plate's first corner on, and of the others


def sheet(renderer: SceneRenderer, seed: int, count: int, columns: int, real: Path | None) -> NDArray[np.uint8]:
    """BGR image of `count` scenes from `seed` on; where `real`, a set, is given, every other row shows it instead."""
    drawn = [renderer.scene(seed + number, SIZE) for number in range(count)]
    rows = [drawn[i : i + columns] for i in range(0, count, columns)]
    if real is not None:
        photographs = iter(LabelledScenes(real))
        for place in range(len(rows)):
            rows.insert(2 * place + 1, [scene for _, scene in zip(range(columns), photographs, strict=False)])
    width, height = SIZE[0] + _GAP, SIZE[1] + _GAP
    canvas = np.full((height * len(rows), width * columns, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, scene in enumerate(row):
            shown = _marked(scene)
            canvas[y * height : y * height + shown.shape[0], x * width : x * width + shown.shape[1]] = shown
    return canvas


def _marked(scene: Scene) -> NDArray[np.uint8]:
    """The scene, no larger than SIZE, with the outlines of its plates."""
    height, width = scene.image.shape[:2]
    scale = min(SIZE[0] / width, SIZE[1] / height)
    shown = cv2.resize(scene.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for plate in scene.plates:
        corners: Sequence[Sequence[int]] = np.round(plate.corners * scale).astype(int).tolist()
        for number, start in enumerate(corners):
            end = corners[(number + 1) % 4]
            cv2.line(shown, tuple(start), tuple(end), _OTHERS if number else _FIRST, 1, cv2.LINE_AA)
    return np.asarray(shown, np.uint8)
