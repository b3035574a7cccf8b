"""The manifests of the installed variants, read again only where they changed."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from service import artifact
from service.artifact import Manifest, ReadManifest
from service.errors import ArtifactError

LOOK_S: Final = 1.0  # between looks at the folder, however many ask

Entries = Mapping[str, Manifest | ArtifactError]  # by name; of a manifest that cannot be used, why


class Catalogue:
    """What is installed below a folder. Its methods belong to the event loop; the folder is read on a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stamps: dict[str, tuple[int, ...] | None] = {}
        self._entries: Entries = {}
        self._due = 0.0  # by time.monotonic
        self._looking = asyncio.Lock()

    def expire(self) -> None:
        """Have the next one who asks look at the folder."""
        self._due = 0.0

    async def entries(self) -> Entries:
        """What is installed, by name; the same object until something changes.

        At most LOOK_S old. Of all who ask at once, one looks and the others wait for that.
        """
        async with self._looking:
            if time.monotonic() >= self._due:
                await asyncio.to_thread(self._look)
                self._due = time.monotonic() + LOOK_S
            return self._entries

    def _look(self) -> None:
        stamps = {name: artifact.stamp(self._root / name) for name in artifact.variants(self._root)}
        if stamps == self._stamps:
            return
        found = {
            name: self._entries[name] if self._stamps.get(name) == stamp and name in self._entries else self._read(name)
            for name, stamp in stamps.items()
        }
        self._entries = {
            name: entry for name, entry in found.items() if isinstance(entry, ReadManifest | ArtifactError)
        }
        self._stamps = stamps

    def _read(self, name: str) -> Manifest | ArtifactError:
        try:
            return artifact.read_manifest(self._root / name)
        except ArtifactError as error:
            return error
