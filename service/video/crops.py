"""Pictures of the plates of events, kept for some hours where somebody asks for them."""

import time
from pathlib import Path
from typing import Final

import cv2

from service.reading.geometry import Pixels

HOUR_S: Final = 3600.0
CHECKED_S: Final = 60.0  # seconds between two looks for files that are too old
NAMES: Final = "lpr-*.jpg"  # what is ours to delete


class Crops:
    """A folder of JPEG files named after events."""

    def __init__(self, folder: Path, hours: float) -> None:
        """What is older than `hours` is deleted, at the start too."""
        self._folder, self._seconds, self._due = folder, hours * HOUR_S, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.clean()

    def keep(self, number: str, image: Pixels) -> str:
        """Write the picture of an event; the file's path."""
        file = self._folder / f"lpr-{number}.jpg"
        file.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        return str(file)

    def clean(self) -> None:
        """Delete what is too old; looks into the folder once a minute at most."""
        now = time.time()
        if now < self._due:
            return
        self._due = now + CHECKED_S
        for file in self._folder.glob(NAMES):
            if now - file.stat().st_mtime > self._seconds:
                file.unlink(missing_ok=True)
