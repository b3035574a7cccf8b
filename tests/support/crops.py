"""Rendered crops in a user's folder, and a network small enough to train in a test."""

import csv
from pathlib import Path

import cv2

from model_builder.networks.reader import Widths
from model_builder.render.plate import Renderer, batch

WIDTHS = Widths(4, (6,), (8, 8), (10,), 10, 8)


def write_crops(folder: Path) -> Path:
    """Twelve labelled crops."""
    folder.mkdir()
    images, texts = batch(Renderer(fonts=False), 0, 12)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("file", "text"))
        for number, (image, text) in enumerate(zip(images, texts, strict=True)):
            cv2.imwrite(str(folder / f"{number}.png"), image)
            lines.writerow((f"{number}.png", text))
    return folder
