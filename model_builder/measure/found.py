"""What a least probability of a plate keeps and drops: the table from which `reading.plates.SURELY` is chosen."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from tqdm import tqdm

from model_builder.measure import blocks
from model_builder.render.scene import Scene
from model_builder.tasks.finding import ALARM, FOUND, Find
from model_builder.train.finder import overlap

LEAST: Final = (0.5, 0.8, 0.9, 0.95, 0.99)


def table(find: Find, scenes: Sequence[Scene], empty: Iterable[Path]) -> str:
    """Markdown, of each least probability: the share of the scenes' plates that it keeps, and the false alarms of a
    scene and of an `empty` photograph."""
    right, false, alarms, count, photographs = [], [], [], 0, 0
    for scene in tqdm(scenes, unit="scene", leave=False, dynamic_ncols=True):
        found = find(scene.image)
        count += len(scene.plates)
        for plate in scene.plates:
            best = max(found, key=lambda one: overlap(one.corners, plate.corners), default=None)
            if best is not None and overlap(best.corners, plate.corners) >= FOUND:
                right.append(best.probability)
        known = [*(plate.corners for plate in scene.plates), *scene.unsure]
        false += [one.probability for one in found if all(overlap(one.corners, outline) < ALARM for outline in known)]
    for path in empty:
        if (image := cv2.imread(str(path))) is not None:
            photographs += 1
            alarms += [one.probability for one in find(np.asarray(image, np.uint8))]
    titles = ["`found` at least", f"of {count} plates given", f"false alarms a scene, of {len(scenes)}"]
    if photographs:
        titles.append(f"false alarms a photograph without plates, of {photographs}")
    rows = []
    for least in LEAST:
        row = [f"{least:g}", f"{100 * _from(least, right) / max(count, 1):.1f} %"]
        row.append(f"{_from(least, false) / len(scenes):.3f}")
        rows.append(row + [f"{_from(least, alarms) / photographs:.3f}"] * bool(photographs))
    return blocks.table(titles, rows)


def _from(least: float, probabilities: Sequence[float]) -> int:
    return sum(probability >= least for probability in probabilities)
