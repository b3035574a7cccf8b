"""Image bytes to tensors."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from service.errors import EmptyImage, TooManyPixels, UndecodableImage
from service.reading import decode, geometry
from tests.support.images import encode, picture, png_bomb

SIZE = (24, 94)  # height and width that the network takes
LIMIT = 1_000_000


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp"])
def test_accepted_types_are_decoded_to_bgr(extension):
    image = decode.decode_image(encode(extension), LIMIT)
    assert (image.shape, image.dtype) == ((24, 94, 3), np.uint8)
    assert np.abs(image.astype(int) - picture()).mean() < 8


@pytest.mark.parametrize(
    ("mode", "extension"),
    [
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("RGBA", "PNG"),
        ("I;16", "PNG"),
        ("CMYK", "JPEG"),
        ("L", "JPEG"),
    ],
)
def test_other_pixel_types_become_bgr(mode, extension, tmp_path):
    rgb = Image.fromarray(picture()[:, :, ::-1])
    image = Image.fromarray(picture()[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else rgb.convert(mode)
    image.save(tmp_path / "image", extension)
    decoded = decode.decode_image((tmp_path / "image").read_bytes(), LIMIT)
    assert (decoded.shape, decoded.dtype) == ((24, 94, 3), np.uint8)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(picture()[:, :, ::-1]).save(tmp_path / "image.jpg", exif=exif, quality=95)
    image = decode.decode_image((tmp_path / "image.jpg").read_bytes(), LIMIT)
    assert image.shape == (94, 24, 3)
    assert np.abs(image.astype(int) - cv2.rotate(picture(), cv2.ROTATE_90_CLOCKWISE)).mean() < 8


def test_a_jpeg_without_its_last_bytes_is_read():
    data = encode(".jpg", picture(300, 200))
    image = decode.decode_image(data[: int(len(data) * 0.8)], LIMIT)
    assert np.abs(image[:100].astype(int) - picture(300, 200)[:100]).mean() < 8


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.6])
def test_a_jpeg_of_which_too_little_arrived_is_refused(share):
    data = encode(".jpg", np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    length = int(len(data) * min(share, 0.4))
    with pytest.raises(UndecodableImage):
        decode.decode_image(data[:length], LIMIT)


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp"])
def test_other_truncated_images_are_refused(extension):
    data = encode(extension, picture(300, 200))
    with pytest.raises(UndecodableImage):
        decode.decode_image(data[: len(data) // 2], LIMIT)


@pytest.mark.parametrize("data", [b"x", b"not an image", b"\xff\xd8\xff", b"GIF89a" + bytes(100), bytes(1000)])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(UndecodableImage):
        decode.decode_image(data, LIMIT)


def test_no_bytes_are_refused():
    with pytest.raises(EmptyImage):
        decode.decode_image(b"", LIMIT)


def test_too_many_pixels_are_refused_by_the_header_alone():
    with pytest.raises(TooManyPixels, match="50000 x 50000"):
        decode.decode_image(png_bomb(), LIMIT)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_size_of_an_ordinary_jpeg_is_found_without_pillow(mode, progressive, tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture(300, 200)).convert(mode)
    image.save(tmp_path / "image.jpg", exif=exif, progressive=progressive, comment="Hi")
    monkeypatch.setattr(Image, "open", None)
    data = (tmp_path / "image.jpg").read_bytes()
    with pytest.raises(TooManyPixels, match="300 x 200 pixels"):
        decode.decode_image(data, 59_999)
    assert decode.decode_image(bytearray(data), 60_000).shape == (300, 200, 3)  # turned


def test_a_jpeg_of_too_many_pixels_is_refused_by_the_header_alone():
    data = bytearray(encode())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(TooManyPixels, match="65535 x 65535"):
        decode.decode_image(data, LIMIT)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (94, 24), (47, 12), (500, 10), (10, 500), (440, 140)])
def test_prepare_gives_the_input_of_the_network(width, height):
    crop = geometry.prepare(picture(width, height), SIZE)
    assert (crop.shape, crop.dtype) == ((*SIZE, 3), np.uint8)


def test_prepare_averages_areas_when_it_shrinks():
    board = np.indices((240, 940)).sum(axis=0) % 2 * 255
    crop = geometry.prepare(np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8), SIZE)
    assert np.ptp(crop) <= 2
    assert abs(float(crop.mean()) - 127.5) < 2


def test_prepare_leaves_a_crop_of_the_right_size_alone():
    np.testing.assert_array_equal(geometry.prepare(picture(), SIZE), picture())


def photograph(width: int, height: int, turned: bool = False, mode: str = "RGB", **options: object) -> bytes:
    """A JPEG of the test picture, with detail that a smaller one cannot show."""
    noise = np.random.default_rng(0).integers(-20, 20, (height, width, 1))
    image = Image.fromarray(np.clip(picture(width, height)[:, :, ::-1] + noise, 0, 255).astype(np.uint8)).convert(mode)
    exif, file = Image.Exif(), io.BytesIO()
    if turned:
        exif[0x0112] = 6
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(file, "JPEG", exif=exif, quality=92, **options)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("width", "height", "factor"),
    [(751, 400, 1), (752, 191, 1), (752, 192, 2), (1503, 799, 2), (1505, 385, 4), (3010, 771, 8), (900, 3000, 2)],
)
def test_a_large_jpeg_is_decoded_reduced_and_gives_the_same_crop(width, height, factor, turned, mode):
    data = photograph(width, height, turned, mode)
    decoded = decode.decode_plate(decode.check(data, 5_000_000), 5_000_000, SIZE)
    reduced, size = decoded.pixels, decoded.size
    assert (size, reduced.shape[:2]) == ((width, height), (-(-height // factor), -(-width // factor)))
    assert factor == 1 or (reduced.shape[1] >= decode.MARGIN * SIZE[1] and reduced.shape[0] >= 96)
    whole = geometry.prepare(decode.decode_image(data, 5_000_000), SIZE).astype(int)
    assert np.abs(geometry.prepare(reduced, SIZE) - whole).mean() < 1  # of 255
    np.testing.assert_array_equal(decode.load(data, 5_000_000, SIZE), geometry.prepare(reduced, SIZE))


def test_other_types_are_decoded_whole():
    decoded = decode.decode_plate(decode.check(encode(".png", picture(1600, 400)), LIMIT), LIMIT, SIZE)
    assert (decoded.size, decoded.pixels.shape) == ((1600, 400), (400, 1600, 3))


def test_a_large_jpeg_that_ends_early_is_reduced_as_well_and_said_to_be_truncated():
    data = photograph(1600, 400)
    decoded = decode.decode_plate(decode.check(data[:-2000], LIMIT), LIMIT, SIZE)
    assert (decoded.size, decoded.pixels.shape, decoded.truncated) == ((1600, 400), (100, 400, 3), True)
    assert not decode.decode_plate(decode.check(data, LIMIT), LIMIT, SIZE).truncated
    with pytest.raises(UndecodableImage, match="cut off"):
        decode.decode_plate(decode.check(data[: len(data) // 3], LIMIT), LIMIT, SIZE)
