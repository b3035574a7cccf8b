"""Pictures of the plates of events, kept for some hours where somebody asks for them."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import cv2

from service.errors import BadParameter
from service.reading.geometry import Pixels
from service.video.messages import say

HOUR_S: Final = 3600.0
CHECKED_S: Final = 60.0  # seconds between two looks for files that are too old
NAMES: Final = "lpr-*.jpg"  # what is ours to delete


class Crops:
    """A folder of JPEG files named after events."""

    def __init__(self, folder: Path, hours: float) -> None:
        """What is older than `hours` is deleted, at the start too. Raises BadParameter where there can be no folder."""
        self._folder, self._seconds, self._due = folder, hours * HOUR_S, 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadParameter(f"Crops cannot be kept in {folder} ({error.strerror}): name another folder.") from error
        self.clean()

    def keep(self, number: str, image: Pixels) -> str | None:
        """Write the picture of an event; the file's path, or None where it cannot be written, which stderr tells."""
        file = self._folder / f"lpr-{number}.jpg"
        try:
            file.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        except OSError as error:
            say(f"the crop {file} cannot be written: {error.strerror}")
            with suppress(OSError):
                file.unlink(missing_ok=True)  # a full disk leaves a part of it
            return None
        return str(file)

    def clean(self) -> None:
        """Delete what is too old; looks into the folder once a minute at most."""
        now = time.time()
        if now < self._due:
            return
        self._due = now + CHECKED_S
        errors = []
        for file in self._folder.glob(NAMES):
            try:
                if now - file.stat().st_mtime > self._seconds:
                    file.unlink()
            except FileNotFoundError:  # somebody else deleted it
                continue
            except OSError as error:
                errors.append(error)
        if errors:
            say(f"{len(errors)} old crops cannot be deleted: {errors[0]}")
