"""What counts as an image at an address, and addresses that cannot be used."""

import os
import zipfile
from pathlib import Path

import pytest

from model_builder.measure.load.servers import free_port
from service.bulk import listing
from service.client import files
from service.errors import BadParameter


def names(address: Path | str) -> list[str]:
    """Names of the images that are found."""
    return [Path(path).name for path in listing.find(str(address), files.SUFFIXES).paths]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "in"
    top.mkdir()
    for name in ("p1.jpg", "p2.jpg", "p10.jpg", ".hidden.jpg", "notes.txt"):
        (top / name).write_bytes(b"x")
    return top


def test_links_to_images_are_images(folder, tmp_path):
    """As for `lpr read`: links to folders are not followed, and one that leads nowhere has a row."""
    (tmp_path / "elsewhere.bin").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    targets = {"link.jpg": "elsewhere.bin", "folder.jpg": "in", "gone.jpg": "nothing", "pipe.jpg": "pipe", "l.txt": "x"}
    for name, target in targets.items():
        (folder / name).symlink_to(tmp_path / target)
    expected = ["gone.jpg", "link.jpg", "p1.jpg", "p10.jpg", "p2.jpg"]
    assert names(folder) == expected
    assert sorted(file.path.name for file in files.find([folder]).files) == expected
    assert names(folder / "link.jpg") == ["link.jpg"]
    (tmp_path / "way").symlink_to(folder)
    assert names(tmp_path / "way") == expected


def test_what_a_link_leads_to_is_of_the_digest(folder, tmp_path):
    target = tmp_path / "elsewhere.jpg"
    target.write_bytes(b"x")
    (folder / "link.jpg").symlink_to(target)
    before = listing.find(str(folder), files.SUFFIXES).digest
    target.write_bytes(b"xx")
    assert listing.find(str(folder), files.SUFFIXES).digest != before


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("p*.jpg", ["p1.jpg", "p10.jpg", "p2.jpg"]),
        ("p?.jpg", ["p1.jpg", "p2.jpg"]),
        ("p[13]*.jpg", ["p1.jpg", "p10.jpg"]),
    ],
)
def test_patterns_are_those_of_a_shell(folder, pattern, expected):
    assert names(folder / pattern) == expected


@pytest.mark.parametrize("name", ["a[1].jpg", "a?.jpg", "a*.jpg"])
def test_a_name_that_is_there_is_no_pattern(folder, name):
    for each in (name, "a1.jpg"):
        (folder / each).write_bytes(b"x")
    assert names(folder / name) == [name]


def test_an_archive_is_a_place(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(folder / "p1.jpg", "x/p1.jpg")
    assert names(f"zip://x/*.jpg::{tmp_path}/all.zip") == ["p1.jpg"]
    assert names(f"zip://::{tmp_path}/all.zip") == ["p1.jpg"]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("{folder}/p1.jpg/x.jpg", "NotADirectoryError"),
        ("http://127.0.0.1:{port}/x.jpg", "127.0.0.1"),
        ("http://127.0.0.1:{port}/*.jpg", "127.0.0.1"),
        ("ftp://127.0.0.1:{port}/x", "ConnectionRefusedError"),
        ("zip://*.jpg::{folder}/nothing.zip", "FileNotFoundError"),
        ("zip://*.jpg::{folder}/notes.txt", "BadZipFile"),
        ("nosuch://x", "nosuch"),
    ],
)
def test_an_address_that_cannot_be_reached_is_told_with_the_reason(folder, address, told):
    address = address.format(folder=folder, port=free_port())
    with pytest.raises(BadParameter, match="cannot be used: ") as caught:
        listing.find(address, files.SUFFIXES)
    assert str(caught.value).startswith(f"{address} ")
    assert told in str(caught.value).removeprefix(address)


@pytest.mark.parametrize("address", ["memory://x", "simplecache::memory://x", "zip://a.jpg::memory://x.zip"])
def test_the_memory_of_a_process_is_no_place(address):
    with pytest.raises(BadParameter, match="memory of one process"):
        listing.Place.at(address)
