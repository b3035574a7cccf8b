"""Images at an fsspec address: a file, a folder, a bucket, or a pattern with asterisks."""

import hashlib
from dataclasses import dataclass
from typing import Any

import fsspec

from service.errors import BadParameter, printable


@dataclass(frozen=True)
class Place:
    """A path in a file system that fsspec knows."""

    system: Any
    path: str

    @classmethod
    def at(cls, address: str) -> "Place":
        """The place of an address; raises BadParameter for one of a kind that is not known or not installed."""
        try:
            return cls(*fsspec.core.url_to_fs(address))
        except (ValueError, ImportError) as error:
            raise BadParameter(f"{printable(address)} cannot be opened: {error}") from None

    def name(self, path: str) -> str:
        """The address of a path here; of this machine's files the path alone."""
        return path if "file" in self.system.protocol else str(self.system.unstrip_protocol(path))


@dataclass(frozen=True)
class Listing:
    """Paths of images by name, and a digest of their names and sizes."""

    place: Place
    paths: tuple[str, ...]
    digest: str


def find(address: str, suffixes: tuple[str, ...]) -> Listing:
    """The images at an address, by the suffixes of their names; hidden files are left out.

    Raises BadParameter where there is none.
    """
    place = Place.at(address)
    try:
        found = _found(place)
    except OSError as error:
        raise BadParameter(f"{printable(address)} cannot be listed: {error}") from None
    images = {path: info.get("size") for path, info in sorted(found.items()) if _is_image(path, info, suffixes)}
    if not images:
        raise BadParameter(f"There is no image at {printable(address)}: {', '.join(suffixes)} count.")
    told = "".join(f"{path}\0{size}\n" for path, size in images.items())
    return Listing(place, tuple(images), hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest())


def _found(place: Place) -> dict[str, dict[str, Any]]:
    system, path = place.system, place.path
    if system.isfile(path):
        return {path: system.info(path)}
    listed = system.glob if "*" in path else system.find
    return dict(listed(path, detail=True))


def _is_image(path: str, info: dict[str, Any], suffixes: tuple[str, ...]) -> bool:
    name = path.rsplit("/", 1)[-1]
    return info.get("type") == "file" and not name.startswith(".") and name.lower().endswith(suffixes)
