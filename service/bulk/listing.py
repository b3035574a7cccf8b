"""Images at an fsspec address: a file, a folder, a bucket, or a pattern with `*`, `?` or `[...]`."""

import glob
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec

from service.errors import BadParameter, LprError, brief, printable


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Raise BadParameter in the place of whatever a file system raises within.

    All calls of file systems stand in such a block: their errors (of aiohttp, ftplib, zipfile, botocore) have no class
    in common.
    """
    try:
        yield
    except LprError:
        raise
    except Exception as error:
        why = brief(f"{type(error).__name__}: {error}")
        raise BadParameter(f"{printable(address)} cannot be used: {why}") from error


@dataclass(frozen=True)
class Place:
    """A path in a file system that fsspec knows."""

    system: Any
    path: str

    @classmethod
    def at(cls, address: str) -> "Place":
        """The place of an address.

        Raises BadParameter where it cannot be opened, or where workers, which are processes of their own, do not see
        the same file system.
        """
        if "memory" in (link.partition(":")[0] for link in address.split("::")):
            raise BadParameter(f"{printable(address)} is memory of one process: name files that all workers reach.")
        with reaching(address):
            return cls(*fsspec.core.url_to_fs(address))

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
    """The images at an address, by the suffixes of their names; hidden files and links to folders are left out.

    Raises BadParameter where there is none, or where the address cannot be listed.
    """
    place = Place.at(address)
    with reaching(address):
        found = sorted(_found(place).items())
        images = {path: info.get("size") for path, info in found if _is_image(place.system, path, info, suffixes)}
    if not images:
        raise BadParameter(f"There is no image at {printable(address)}: {', '.join(suffixes)} count.")
    told = "".join(f"{path}\0{size}\n" for path, size in images.items())
    return Listing(place, tuple(images), hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest())


def _found(place: Place) -> dict[str, dict[str, Any]]:
    """All files at a place; a name that is there is never a pattern, whatever characters it has."""
    system, path = place.system, place.path
    try:
        info = system.info(path)
    except FileNotFoundError as error:
        found = dict(system.glob(path, detail=True)) if glob.has_magic(path) else {}
        if not found and not isinstance(error.__cause__, FileNotFoundError | None):
            raise error.__cause__ from None  # over HTTP, a host that does not answer is a file that is not found
        return found
    return dict(system.find(path, detail=True)) if info["type"] == "directory" else {path: info}


def _is_image(system: Any, path: str, info: dict[str, Any], suffixes: tuple[str, ...]) -> bool:
    name = path.rsplit("/", 1)[-1]
    if name.startswith(".") or not name.lower().endswith(suffixes):
        return False
    if info.get("type") == "file":
        return True
    # In a folder's listing, a link is not of its target's type. One that leads nowhere counts: its row tells of it.
    linked = info.get("islink") or info.get("type") == "link"
    return bool(linked) and (system.isfile(path) or not system.exists(path))
