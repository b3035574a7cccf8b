"""Files that `lpr read` was asked to read: those named, the images in folders, and a count of what was skipped."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SUFFIXES_OF: Final = {  # of what is written, by media type
    "image/jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "image/png": (".png",),
    "image/bmp": (".bmp",),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
    "image/tiff": (".tif", ".tiff"),
    "image/avif": (".avif",),
}
SUFFIXES = (*(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes), ".heic", ".heif")
LISTED = 5  # kinds of skipped files that the summary names


@dataclass(frozen=True)
class File:
    """A file to read, or why it cannot be."""

    path: Path
    error: str | None = None


@dataclass
class Found:
    """Files in the order of the paths, then by name, and how many of each kind were skipped in folders.

    Whatever was named has at least one entry in `files`: what cannot be read has its error there.
    """

    files: list[File] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    suffixes: Counter[str] = field(default_factory=Counter)  # of the skipped files that are no images

    def summary(self) -> str | None:
        """What was skipped, as a sentence; None where nothing was."""
        told = [f"{kind}: {count}" for kind, count in sorted(self.skipped.items())]
        if self.suffixes:
            names = ", ".join(name[:20] for name in sorted(self.suffixes)[:LISTED])
            more = ", ..." if len(self.suffixes) > LISTED else ""
            told.insert(0, f"files that are no images ({names}{more}): {self.suffixes.total()}")
        return f"Skipped in folders: {'; '.join(told)}." if told else None


def find(paths: Iterable[Path]) -> Found:
    """The files among the paths, and the images in the folders among them."""
    found = Found()
    for path in paths:
        before = len(found.files)
        if path.is_dir():
            _search(path, found)
            found.files[before:] = sorted(found.files[before:], key=lambda file: file.path)
            if len(found.files) == before:
                found.files.append(File(path, f"The folder holds no image: {', '.join(SUFFIXES)} count."))
        else:
            found.files.append(File(path, fault(path)))
    return found


def fault(path: Path) -> str | None:
    """Why a path that was named cannot be read, as far as that can be told without opening it."""
    if not os.path.lexists(path):
        return "There is no file or folder of this name."
    if path.exists() and not path.is_file():
        return "It is no regular file."
    return None


def _search(top: Path, found: Found) -> None:
    def unreadable(error: OSError) -> None:
        found.files.append(File(Path(error.filename), f"The folder cannot be opened: {error.strerror}."))

    for name, folders, files in os.walk(top, onerror=unreadable):
        folder = Path(name)
        if not folders and not files and folder != top:
            found.skipped["empty folders"] += 1
        folders[:] = _descend(folder, folders, found)
        found.files += [File(folder / file) for file in files if _is_image(folder / file, found)]


def _descend(folder: Path, names: list[str], found: Found) -> Iterator[str]:
    for name in names:
        if name.startswith("."):
            found.skipped["hidden"] += 1
        elif (folder / name).is_symlink():
            found.skipped["links to folders"] += 1
        else:
            yield name


def _is_image(path: Path, found: Found) -> bool:
    if path.name.startswith("."):
        found.skipped["hidden"] += 1
    elif path.suffix.lower() not in SUFFIXES:
        found.suffixes[path.suffix.lower() or "without a suffix"] += 1
    elif path.exists() and not path.is_file():
        found.skipped["no regular files"] += 1
    else:
        return True
    return False
