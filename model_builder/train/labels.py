"""Labelled folders: crops or photographs with a labels.csv, for training and for measurements.

A set is a folder with `labels.csv` and its images, in the folder itself or in its `images/`. The columns `file` and
`text` are needed; where `x1,y1` to `x4,y4` are filled, the image is a photograph and is cut to the axis-aligned box of
these corners, as a detector would cut it. A DataError names the place of a mistake and says how to correct it.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates import CROP, MAX_CHARACTERS
from model_builder.plates.kinds import ALPHABET
from model_builder.train.data import Crops
from service.errors import InputError
from service.reading import decode, geometry

LISTING = "labels.csv"
CORNERS = tuple(f"{axis}{number}" for number in (1, 2, 3, 4) for axis in "xy")
_MAX_PIXELS = 100_000_000
_NAMED = 3  # files of a kind that a message names
_LEFT_OUT = 10  # unreadable images with a line of their own


class DataError(Exception):
    """Data of the user that cannot be used. The message names the file and says what to do."""


@dataclass(frozen=True)
class _Entry:
    """A line of labels.csv; `corners` (4, 2) in pixels, or None where the whole image is the crop."""

    file: str
    text: str
    path: Path
    corners: NDArray[np.float64] | None


def read_folder(folder: Path) -> Crops:
    """The crops of a set to train on.

    Raises DataError for a list or an image that can't be read, a missing image, and a text that is too long or has a
    character outside the alphabet.
    """
    entries = _entries(folder)
    for entry in entries:
        _check_trainable(entry)
    images = []
    for entry in entries:
        try:
            images.append(_crop(entry))
        except (InputError, OSError) as error:
            raise DataError(f"{entry.path} can't be read as an image: {error}. Mend it or remove its line") from error
    return Crops(np.stack(images), [entry.text for entry in entries])


def read_set(folder: Path) -> Crops:
    """The crops of a set for measurements. Images that cannot be read are left out, and printed and counted.

    Raises DataError for a list that can't be read, missing images, and where no image can be read. Texts with
    characters outside the alphabet stay, and count as not read.
    """
    entries = _entries(folder)
    images, texts, left_out = [], [], 0
    for entry in entries:
        try:
            images.append(_crop(entry))
            texts.append(entry.text)
        except (InputError, OSError) as error:
            left_out += 1
            if left_out <= _LEFT_OUT:
                print(f"{entry.path} left out: {error}")
    if not images:
        raise DataError(f"{folder / LISTING} lists no image that can be read")
    if left_out:
        print(f"{folder.name}: {left_out} of {len(entries)} images left out, because they can't be read")
    if foreign := sorted(set("".join(texts)) - set(ALPHABET)):
        number = sum(not set(text) <= set(ALPHABET) for text in texts)
        shown = "".join(foreign[:20])
        print(f"{folder.name}: {number} of {len(texts)} texts can't be read: the alphabet has none of {shown}")
    return Crops(np.stack(images), texts)


def read_sets(folders: Sequence[Path], *taken: str) -> dict[str, Crops]:
    """The sets in folders, by name; each folder is a set itself or holds sets.

    Raises DataError where it is neither, and where two sets have the same name or one that is `taken`.
    """
    return {name: read_set(path) for name, path in named(folders, *taken).items()}


def named(folders: Sequence[Path], *taken: str) -> dict[str, Path]:
    """The sets in folders, by name, as `read_sets` takes them. Raises DataError as it does."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in _sets_in(folder):
            name = path.resolve().name
            if name in found or name in taken:
                raise DataError(f"{path}: there is another set called {name!r}; rename the folder")
            found[name] = path
    return found


def _sets_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give a set ({LISTING} and its images), or a folder of sets")
    if (folder / LISTING).exists():
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    sets = [path for path in inside if (path / LISTING).exists()]
    if not sets:
        raise DataError(
            f"{folder} has no {LISTING}, nor has a folder in it: write one with the columns file,text, one line a crop"
        )
    if others := [path.name for path in inside if path not in sets]:
        print(f"{folder}: left out, for want of a {LISTING}: {', '.join(others[:_LEFT_OUT])}")
    return sets


def _entries(folder: Path) -> list[_Entry]:
    """The lines of the folder's list, each of which names a file that exists."""
    listing = folder / LISTING
    if not listing.is_file():
        raise DataError(f"{listing} does not exist: write it with the columns file,text, one line a crop")
    columns, rows = table(listing)
    _check_columns(listing, columns)
    if not rows:
        raise DataError(f"{listing} lists no crops: add at least one line below file,text")
    entries = [_entry(folder, line, row) for line, row in rows]
    if missing := [entry.file for entry in entries if not entry.path.is_file()]:
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise DataError(
            f"{len(missing)} of {len(entries)} files are listed in {listing} but are neither in {folder} nor in its "
            f"images/: {named}. Add them or remove their lines"
        )
    return entries


def table(listing: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV file, and each row with the number of its line. Raises DataError."""
    try:
        text = listing.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return list(reader.fieldnames or []), [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{listing} can't be read as a CSV file in UTF-8 ({error}): save it again as CSV with that encoding"
        ) from error


def _check_columns(listing: Path, columns: list[str]) -> None:
    shown = ", ".join(map(repr, columns))[:200] or "none"
    if not {"file", "text"} <= set(columns):
        raise DataError(
            f"{listing} needs the columns file and text in its first line, with a comma between; it has {shown}"
        )
    if len(set(columns)) != len(columns):
        raise DataError(f"{listing} names a column twice in its first line: {shown}")
    corners = set(CORNERS)
    if not (corners.isdisjoint(columns) or corners <= set(columns)):
        raise DataError(f"{listing} has some columns of corners; it needs all of {', '.join(CORNERS)}, or none")


def _entry(folder: Path, line: int, row: dict[str, str]) -> _Entry:
    place = f"{folder / LISTING}, line {line}"
    name, text = (row["file"] or "").strip(), row["text"] or ""
    if not name:
        raise DataError(f"{place} names no file")
    if not text:
        raise DataError(f"{place}: the text of {name} has 0 characters; write what is on the plate, or remove the line")
    return _Entry(name, text, image_of(folder, name), corners_of(place, row))


def image_of(folder: Path, name: str) -> Path:
    """The file that a set calls so."""
    return next((path for path in (folder / name, folder / "images" / name) if path.is_file()), folder / name)


def corners_of(place: str, row: dict[str, str]) -> NDArray[np.float64] | None:
    """The corners (4, 2) in a row, None where its columns are empty. Raises DataError that names the `place`."""
    given = [(row.get(name) or "").strip() for name in CORNERS]
    if not any(given):
        return None
    try:
        corners = np.array(given, np.float64).reshape(4, 2)
    except ValueError:
        corners = np.full((4, 2), np.nan)
    if not np.isfinite(corners).all():
        raise DataError(f"{place}: {','.join(CORNERS)} must be eight numbers, or all be empty")
    return corners


def _check_trainable(entry: _Entry) -> None:
    if foreign := sorted(set(entry.text) - set(ALPHABET)):
        raise DataError(
            f"{entry.file}: its text {entry.text[:50]!r} has {', '.join(map(repr, foreign[:10]))}, not in the alphabet "
            f"{ALPHABET}: correct it or remove its line"
        )
    if len(entry.text) > MAX_CHARACTERS:
        raise DataError(
            f"{entry.file}: its text {entry.text[:50]!r} has {len(entry.text)} characters; 1 to {MAX_CHARACTERS} can "
            "be read"
        )


def _crop(entry: _Entry) -> NDArray[np.uint8]:
    data = entry.path.read_bytes()
    if entry.corners is None:
        return decode.load(data, _MAX_PIXELS, CROP)
    image = decode.decode_image(data, _MAX_PIXELS)
    edge = image.shape[1::-1]
    left, top = np.clip(np.floor(entry.corners.min(0)), 0, edge).astype(int)
    right, bottom = np.clip(np.ceil(entry.corners.max(0)), 0, edge).astype(int)
    if left >= right or top >= bottom:
        raise DataError(f"{entry.path}: the box of its corners holds no pixel of the image; correct them")
    return geometry.prepare(image[top:bottom, left:right], CROP)


def write_folder(folder: Path, crops: Crops, *, suffix: str = ".jpg", replace: bool = False) -> None:
    """Write crops as a set: labels.csv with file,text, and images/.

    JPEG (of quality 95) is what cameras and detectors send. PNG keeps every pixel and is twice as large. Raises
    DataError if the folder already holds a set and `replace` is false.
    """
    listing, images = folder / LISTING, folder / "images"
    if listing.exists() and not replace:
        raise DataError(f"{listing} exists: give another folder, or remove this one first")
    images.mkdir(parents=True, exist_ok=True)
    rows = [("file", "text"), *((f"{number:04}{suffix}", text) for number, text in enumerate(crops.texts))]
    for image, (name, _) in zip(crops.images, rows[1:], strict=True):
        (images / name).write_bytes(cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    listing.write_text("".join(f"{name},{text}\n" for name, text in rows), encoding="utf-8")
