"""POST /redact: plates are covered, the rest stays, and nothing tells where and with what the image was taken."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from service import errors
from service.reading.encode import KINDS
from service.settings import Settings
from tests.support.answers import JPEG, problem
from tests.support.images import encode, png_bomb
from tests.support.photographed import BOTH, FAR, NEAR, detail, pixels, with_location
from tests.support.servers import running


@pytest.fixture(scope="module")
def photographs() -> Iterator[httpx.Client]:
    """A server that finds plates."""
    with running(Settings(threads=1)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("how", [None, "blur", "pixelate", "fill"])
def test_both_plates_are_covered_and_the_rest_stays(photographs, how):
    sent = encode(".png", BOTH)
    response = photographs.post("/redact", params={"how": how} if how else {}, content=sent)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert int(response.headers["x-plates"]) >= 2
    assert response.headers["cache-control"] == "no-store"
    image = pixels(response.content)
    for corners in (NEAR, FAR):
        assert detail(image, corners) < 0.2 * detail(BOTH, corners)
    assert (image == BOTH).all(2).mean() > 0.8
    assert photographs.post("/recognize", content=response.content).json()["results"][0]["plates"] == []


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_no_metadata_is_left(photographs, format):
    sent = with_location(format=format)
    assert b"a camera" in sent
    answer = photographs.post("/redact", content=sent).content
    with Image.open(io.BytesIO(answer)) as image:
        assert (image.format, image.size) == (format, (1000, 700))
        assert not image.getexif()
        assert not set(image.info) & {"exif", "comment", "icc_profile", "xmp"}
    assert b"a camera" not in answer
    assert b"at home" not in answer


def test_an_image_that_exif_turns_comes_back_upright(photographs):
    answer = photographs.post("/redact", content=with_location(orientation=6)).content
    with Image.open(io.BytesIO(answer)) as image:
        assert image.size == (700, 1000)


@pytest.mark.parametrize("format", KINDS)
def test_the_format_and_the_size_are_kept(photographs, format):
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(BOTH[..., ::-1])).save(file, format.upper())
    response = photographs.post("/redact", content=file.getvalue())
    assert response.headers["content-type"] == KINDS[format].media_type
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.format, image.size) == (format.upper(), (1000, 700))


def test_what_is_wrong_is_refused(photographs, client):
    problem(photographs.post("/redact", content=encode(), params={"how": "x"}), 422, errors.BadParameter)
    problem(photographs.post("/redact", content=encode(), params={"way": "x"}), 422, errors.BadParameter)
    problem(photographs.post("/redact", content=b"x", headers=JPEG), 400, errors.UndecodableImage)
    problem(photographs.post("/redact", content=png_bomb(), headers=JPEG), 413, errors.TooManyPixels)
    answer = photographs.post("/redact", files=[("image", encode()), ("how", (None, "fill"))])
    assert "put it into the address, as ?how=VALUE" in problem(answer, 422, errors.BadParameter)
    two = [("image", encode()), ("image", encode())]
    problem(photographs.post("/redact", files=two), 422, errors.TooManyImages)
    problem(client.post("/redact", content=encode(), headers=JPEG), 422, errors.BadParameter)  # it has no finder


def test_it_asks_for_a_key_as_reading_does():
    with running(Settings(threads=1, api_keys="a key of 20 letters.")) as url:
        problem(httpx.post(f"{url}/redact", content=encode(), headers=JPEG), 401, errors.BadKey)


def test_an_image_that_ends_early_says_so(photographs):
    whole = encode(".jpg", BOTH)
    assert "x-truncated" not in photographs.post("/redact", content=whole).headers
    assert photographs.post("/redact", content=whole[: len(whole) * 9 // 10]).headers["x-truncated"] == "1"
