"""Every kind of image is read as what it shows; damaged, huge and two-faced ones are read or refused, and no more."""

import io
import itertools
import struct
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from model_builder.measure.load import fuzz, images
from service.errors import TooManyPixels, UndecodableImage
from service.reading import decode

LIMIT = 25_000_000
PLAIN = np.asarray(images.plain())[:, :, ::-1]
GREY = np.asarray(images.plain().convert("L").convert("RGB"))
BLACK_AND_WHITE = np.asarray(images.plain().convert("1").convert("RGB"))
SEEDS = images.seeds()


def shown(name: str) -> np.ndarray:
    """What a seed shows, BGR, orientation applied by Pillow's tables."""
    if "grey" in name:
        return GREY
    if "1-bit" in name:
        return BLACK_AND_WHITE
    if "turned" not in name:
        return PLAIN
    exif = Image.Exif()
    exif[images.ORIENTATION] = int(name[-1])
    target = io.BytesIO()
    images.plain().save(target, "PNG", exif=exif)
    with Image.open(target) as image:
        return np.asarray(ImageOps.exif_transpose(image))[:, :, ::-1]


@pytest.mark.parametrize("name", SEEDS)
def test_every_kind_of_image_shows_what_it_shows_elsewhere(name):
    image = decode.decode_image(SEEDS[name], LIMIT)
    expected = shown(name)
    assert (image.shape, image.dtype, image.flags["C_CONTIGUOUS"]) == (expected.shape, np.uint8, True)
    if "alpha" in name and "palette" not in name and "grey" not in name:
        assert (image[:, 60:] == 255).all()  # transparent: white, though black beneath
        image, expected = image[:, :40], expected[:, :40]
    assert np.abs(image.astype(int) - expected).mean() < 12  # 64 colours, or lossy ones, do not show every shade


def test_sixteen_bits_lose_only_their_lower_half():
    np.testing.assert_array_equal(decode.decode_image(SEEDS["png-16-bit"], LIMIT), PLAIN)


def test_a_transparent_colour_of_a_palette_is_white():
    red, opaque = Image.new("P", (94, 24), 1), Image.new("P", (94, 24), 2)
    red.paste(opaque.crop((0, 0, 47, 24)), (0, 0))
    red.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    target = io.BytesIO()
    red.save(target, "PNG", transparency=1)
    image = decode.decode_image(target.getvalue(), LIMIT)
    assert (image[0, 0].tolist(), image[0, 93].tolist()) == ([255, 0, 0], [255, 255, 255])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_image_without_any_opaque_pixel_is_read_as_if_it_had_no_transparency(kind):
    hidden = images.plain()
    hidden.putalpha(0)
    target = io.BytesIO()
    hidden.save(target, kind, lossless=True, exact=True)
    np.testing.assert_array_equal(decode.decode_image(target.getvalue(), LIMIT), PLAIN)


@pytest.mark.parametrize("length", [10_000, 0xFF000007])
def test_a_png_whose_chunk_claims_more_than_there_is_never_reaches_the_decoder(length, monkeypatch):
    """OpenCV made room for 4 GB, for a file of 3 KB, and took six seconds."""
    data = bytearray(SEEDS["png-16-bit"])
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = length.to_bytes(4, "big")
    monkeypatch.setattr("cv2.imdecode", None)  # to call it is a TypeError
    with pytest.raises(UndecodableImage, match="damaged or was cut off"):
        decode.decode_image(bytes(data), LIMIT)


def sized(kind: str, width: int, height: int) -> bytes:
    """A file whose header announces this size."""
    target = io.BytesIO()
    Image.new("RGB", (7, 5)).save(target, kind)
    data = bytearray(target.getvalue())
    if kind == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [
        *[("PNG", 25_000_000, 1), ("PNG", 1, 1_000_001), ("PNG", 65_501, 1), ("PNG", 1, 2**31 - 1)],
        *[("BMP", 2_000_000, 1), ("BMP", 1, -2_000_000), ("JPEG", 65_535, 1), ("JPEG", 3, 65_501)],
    ],
)
def test_a_side_that_decoders_refuse_is_refused_by_the_header(kind, width, height, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", None)  # to call it is a TypeError
    with pytest.raises(TooManyPixels, match=rf"{width} x {abs(height)} pixels; at most .* are accepted"):
        decode.decode_image(sized(kind, width, height), LIMIT)


@pytest.mark.parametrize(("kind", "width", "height"), [("PNG", 0, 5), ("BMP", 5, 0), ("JPEG", 5, 0), ("JPEG", 0, 5)])
def test_an_image_without_pixels_is_refused_by_the_header(kind, width, height, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", None)
    with pytest.raises(UndecodableImage, match=f"{width} x {height} pixels"):
        decode.decode_image(sized(kind, width, height), LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "WEBP", "TIFF", "GIF"])
def test_the_longest_side_that_is_accepted_is_read(kind, capfd):
    longest = 16_383 if kind == "WEBP" else decode.MAX_SIDE  # the format has no more
    for size in ((longest, 1), (1, longest)):
        target = io.BytesIO()
        Image.new("RGB", size, "red").save(target, kind)
        assert decode.decode_image(target.getvalue(), LIMIT).shape == (*size[::-1], 3)
    assert capfd.readouterr() == ("", "")


def test_a_side_that_only_the_decoder_sees_has_the_same_bound():
    target = io.BytesIO()
    Image.new("RGB", (decode.MAX_SIDE + 1, 1), "red").save(target, "TIFF")
    with pytest.raises(TooManyPixels, match="65501 x 1"):
        decode.decode_image(target.getvalue(), LIMIT)


@pytest.mark.parametrize("name", ["jpeg-bomb", "png-bomb", "bmp-bomb", "webp-bomb"])
def test_bombs_are_refused_by_their_header(name):
    side = "16384" if "webp" in name else "50000"
    with pytest.raises(TooManyPixels, match=f"{side} x {side}"):
        decode.decode_image(images.bombs()[name], LIMIT)


def test_a_jpeg_of_very_many_scans_is_refused():
    """100 scans of 25 million pixels take a second or two; a file of 16 MB would hold 300,000 of them."""
    with pytest.raises(UndecodableImage, match="more than 100 scans"):
        decode.decode_image(images.scan_bomb(91, images.plain()), LIMIT)
    assert decode.decode_image(images.scan_bomb(90, images.plain()), LIMIT).shape == (24, 94, 3)


@pytest.mark.parametrize("before", [b"", b"\xff\xfe\x00\x04\xff\xd9", b"\xff\xff", b"\xff\xd0junk"])
def test_no_end_that_is_none_hides_scans(before):
    bomb = images.scan_bomb(200, images.plain())
    last = bomb.index(b"\xff\xda")
    with pytest.raises(UndecodableImage, match="scans"):
        decode.decode_image(bomb[:last] + before + bomb[last:], LIMIT)


def test_what_follows_a_jpegs_end_holds_no_scans():
    image = decode.decode_image(SEEDS["jpeg"] + 200 * b"\xff\xda", LIMIT)
    assert np.abs(image.astype(int) - PLAIN).mean() < 12


@pytest.mark.parametrize("name", images.polyglots())
def test_polyglots_are_read_as_the_image_that_they_begin_with_or_refused(name):
    try:
        image = decode.decode_image(images.polyglots()[name], LIMIT)
    except (UndecodableImage, TooManyPixels):
        assert name == "png-two-headers"
    else:
        assert np.abs(image.astype(int) - PLAIN).mean() < 12


def test_the_same_seed_gives_the_same_cases_and_covers_every_mutation():
    first, again, other = (list(images.cases(300, seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert {case.mutation for case in first} == {"none", *images.MUTATIONS}
    assert {case.seed for case in first} >= {*SEEDS, *images.bombs(), *images.polyglots()}


def test_a_few_hundred_hostile_images_are_read_or_refused(serving):
    client, tally = serving(), fuzz.Tally()
    fuzz.attack(client, images.cases(400, seed=5), tally)
    assert [(case.seed, case.mutation, outcome) for case, outcome in tally.bad] == []
    assert sum(tally.by_seed.values()) == sum(tally.by_mutation.values()) == 400
    outcomes = {outcome for _, outcome in tally.by_seed}
    assert {fuzz.READ, "400 undecodable_image", "413 too_many_pixels"} <= outcomes
    assert 'cause="internal"} 0.0' in client.get("/metrics").text
    row = next(line for line in tally.table().splitlines() if line.startswith("truncated"))
    assert len(row.split()) == 1 + len(outcomes)


def test_faults_and_silence_are_bad():
    answers = itertools.cycle([500, 200, 400])

    def answer(request: httpx.Request) -> httpx.Response:
        if (status := next(answers)) == 200:
            raise httpx.ReadError("gone")
        return httpx.Response(status, json={"type": "urn:lpr:x"})

    tally = fuzz.Tally()
    with httpx.Client(base_url="http://x", transport=httpx.MockTransport(answer)) as client:
        fuzz.attack(client, images.cases(3), tally)
    assert [outcome for _, outcome in tally.bad] == ["500 x", fuzz.GONE]
