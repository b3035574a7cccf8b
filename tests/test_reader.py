"""`Reader` in a program: the same results as over HTTP, and no server."""

import asyncio
import atexit
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from service import Reader
from service.errors import ArtifactError, BadParameter, BodyTooLarge, UndecodableImage
from service.reading.text import Reader as TextReader
from service.settings import REPOSITORY
from service.wire import Recognition
from tests.support.artifacts import OTHER_TEXT, TINY_TEXT
from tests.support.images import encode, picture


@pytest.fixture(scope="module")
def reader(artifacts: Path) -> Iterator[Reader]:
    with Reader("tiny", artifacts, threads=2) as reader:
        yield reader


IMAGES = [
    encode(".jpg"),
    encode(".png", picture(300, 100)),
    encode(".png", picture(1600, 400)),  # so large that the server decodes it elsewhere
    encode(".jpg", picture(2400, 600)),  # decoded reduced
    encode(".jpg", picture(300, 100))[:-40],  # cut off
    encode(".png", np.dstack([picture(), np.full((24, 94), 90, np.uint8)])),  # transparent
    b"no image",
]


@pytest.mark.parametrize("options", [{}, {"top_k": 5, "formats": ["cn-standard"]}, {"min_confidence": 1.0}], ids=str)
def test_the_results_are_those_over_http(reader, client, options):
    query = {("format" if name == "formats" else name): value for name, value in options.items()}
    parts = [("image", ("a", image)) for image in IMAGES]
    answer = Recognition.model_validate_json(client.post("/recognize", params=query, files=parts).content)
    results = list(reader.read_all(IMAGES, **options))
    assert len(results) == len(IMAGES)
    for ours, theirs in zip(results, answer.results, strict=True):
        assert (ours.plates, ours.note, ours.truncated) == (theirs.plates, theirs.note, theirs.truncated)
        assert (str(ours.error) if ours.error else None) == (theirs.error.detail if theirs.error else None)


def test_an_image_is_a_path_bytes_or_pixels(reader, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(".png", picture(300, 100)))
    pixels = cv2.imread(str(path))
    forms = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), pixels, pixels[:, ::-1][:, ::-1]]
    first, *others = [reader.read(form) for form in forms]
    assert [plate.text for plate in first] == [TINY_TEXT]
    assert first[0].box[2] == (300, 100)
    assert others == [first] * 5
    assert reader.read(path, min_confidence=1) == []


def test_what_cannot_be_read_raises_alone_and_is_told_among_others(reader, tmp_path, monkeypatch):
    grey = np.zeros((24, 94), np.uint8)
    for image, error in (
        (b"x", UndecodableImage),
        (tmp_path / "none.jpg", FileNotFoundError),
        (grey, UndecodableImage),
        (np.zeros((24, 94, 3), np.float32), UndecodableImage),
        (np.zeros((0, 94, 3), np.uint8), UndecodableImage),
    ):
        with pytest.raises(error):
            reader.read(image)
        before, bad, after = reader.read_all([encode(), image, encode()])
        assert isinstance(bad.error, error)
        assert [result.plates[0].text for result in (before, after)] == [TINY_TEXT] * 2
    with pytest.raises(BadParameter, match="no 'cn-pink'"):
        reader.read(encode(), formats=["cn-pink"])


def test_a_file_of_too_many_bytes_is_not_read(artifacts, tmp_path, monkeypatch):
    monkeypatch.setenv("LPR_MAX_BYTES", "1000")
    with (tmp_path / "huge.jpg").open("wb") as huge:
        huge.truncate(10**12)  # sparse
    with Reader("tiny", artifacts) as reader, pytest.raises(BodyTooLarge, match=r"LPR_MAX_BYTES allows 1,000\."):
        reader.read(tmp_path / "huge.jpg")


def test_an_image_of_too_many_bytes_is_refused_however_it_is_given(artifacts, tmp_path, monkeypatch):
    image = encode()
    path = tmp_path / "a.jpg"
    path.write_bytes(image)
    forms = [image, bytearray(image), lambda: image, path, str(path)]
    for limit, errors in ((len(image), {type(None)}), (len(image) - 1, {BodyTooLarge})):
        monkeypatch.setenv("LPR_MAX_BYTES", str(limit))
        with Reader("tiny", artifacts) as reader:
            assert {type(result.error) for result in reader.read_all(forms)} == errors


def test_many_images_are_taken_as_they_are_read(reader):
    images = iter([IMAGES[0]] * 200)
    results = reader.read_all(images)
    next(results)
    assert len(list(images)) > 100
    assert len(list(results)) < 100


def test_the_variant_comes_from_the_environment_or_from_arguments(originals, monkeypatch):
    monkeypatch.setenv("LPR_ARTIFACTS", str(originals))
    monkeypatch.setenv("LPR_VARIANT", "tiny")
    for variant, text in ((None, TINY_TEXT), ("other", OTHER_TEXT)):
        with Reader(variant) as reader:
            assert reader.read(encode())[0].text == text
            assert reader.manifest.variant == (variant or "tiny")
    with pytest.raises(ArtifactError, match="off by"):
        Reader("wrong")
    with pytest.raises(ValueError, match="not a path"):
        Reader("a/b")


def test_threads_and_event_loops_may_share_it(reader):
    async def read() -> str:
        return reader.read(encode())[0].text

    assert asyncio.run(read()) == TINY_TEXT
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda image: reader.read(image)[0].text, [encode()] * 32)) == {TINY_TEXT}


def test_a_closed_reader_says_so(artifacts):
    reader = Reader("tiny", artifacts)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(encode())


def test_what_is_not_closed_closes_when_python_ends(artifacts, monkeypatch):
    """A thread of torch that is ended with the interpreter aborts the process."""
    last: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", last.append)
    reader = Reader("tiny", artifacts)
    (end,) = last
    end()
    with pytest.raises(ValueError, match="closed"):
        reader.read(encode())


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"top_k": 11},
        {"top_k": 1.5},
        {"min_confidence": 5},
        {"min_confidence": float("nan")},
        {"regions": [""]},
        {"regions": "xx"},
        {"formats": [""]},
    ],
    ids=str,
)
def test_what_http_refuses_is_refused(reader, options):
    with pytest.raises(BadParameter, match=r"^Parameter \w+: "):
        reader.read(encode(), **options)


@pytest.mark.parametrize("regions", ["CN", ["cn"], "any", ["Any"], ()])
def test_regions_are_a_list_or_a_text(reader, regions):
    assert [plate.text for plate in reader.read(encode(), regions=regions)] == [TINY_TEXT]


def test_an_engine_that_fails_raises_and_the_reader_goes_on(reader, monkeypatch):
    monkeypatch.setattr(TextReader, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reader.read(encode())
    monkeypatch.undo()
    assert reader.read(encode())[0].text == TINY_TEXT


def test_the_package_alone_loads_nothing():
    program = "import sys; before = set(sys.modules); import service; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"numpy", "cv2", "pydantic", "service.reader"} & set(done.stdout.split())
    with pytest.raises(ImportError):
        from service import Writer  # noqa: F401


def test_an_old_name_of_a_setting_warns(artifacts, monkeypatch):
    monkeypatch.setenv("LPR_BACKEND", "tiny")
    with (
        pytest.warns(DeprecationWarning, match="LPR_BACKEND is now called LPR_VARIANT"),
        Reader(artifacts=artifacts) as reader,
    ):
        assert reader.manifest.variant == "tiny"
