"""Files of images reduced to what decoding needs: nothing else reaches a decoder, whatever it is and however much."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from model_builder.measure.load import images
from service.errors import TooManyPixels, UndecodableImage, UnsupportedMediaType
from service.reading import containers, decode, decoder_process
from service.reading.containers import MAX_CHUNKS, MAX_SEGMENTS, contain, sniff

LIMIT, MOST = 25_000_000, 16 * 1024**2
PLAIN = np.asarray(images.plain())[:, :, ::-1]
LONGEST_S = 3  # far more than the slowest takes, and far less than a decoder does without the bounds


def saved(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    target = io.BytesIO()
    (image or images.plain()).save(target, kind, **options)
    return target.getvalue()


JPEG, RESTARTS = saved("JPEG"), saved("JPEG", refirstmarker_blocks=1)
SCAN = JPEG.index(b"\xff\xda") + 14


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*before: bytes, pixels: bytes = zlib.compress(bytes(24 * (1 + 4 * 94))), colours: int = 6) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 94, 24, 8, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def part(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def riff(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


WEBP = saved("WEBP")
LOSSY = part(b"VP8 ", WEBP[20 : 20 + int.from_bytes(WEBP[16:20], "little")])
CANVAS = part(b"VP8X", struct.pack("<I", 0x3E) + bytes([93, 0, 0, 23, 0, 0]))


def filled(part: bytes) -> bytes:
    return part * (MOST // len(part))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "jpeg of EXIF": lambda: JPEG[:2] + filled(segment(0xE1, b"Exif\0\0" + bytes(10))) + JPEG[2:],
    "jpeg of long EXIF": lambda: JPEG[:2] + filled(segment(0xE1, b"Exif\0\0" + bytes(65000))) + JPEG[2:],
    "jpeg of comments": lambda: JPEG[:2] + filled(segment(0xFE, b"")) + JPEG[2:],
    "jpeg of tables": lambda: JPEG[:2] + filled(segment(0xDD, bytes(2))) + JPEG[2:],
    "jpeg of restarts": lambda: JPEG[:2] + segment(0xFE, b"\xff\xda" * 101) + filled(b"\xff\xd0") + JPEG[2:],
    "jpeg of restarts in a scan": lambda: RESTARTS[:SCAN] + filled(b"\xff\xd3") + RESTARTS[SCAN:],
    "jpeg of fill": lambda: JPEG[:SCAN] + filled(b"\xff") + JPEG[SCAN:],
    "jpeg of stuffing": lambda: JPEG[:-2] + filled(b"\xff\0") + JPEG[-2:],
    "jpeg with EXIF at its end": lambda: JPEG[:-2] + filled(segment(0xE1, b"Exif\0\0" + bytes(10))) + JPEG[-2:],
    "png of profiles": lambda: png(filled(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**20), 9)))),
    "png of texts": lambda: png(filled(chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**20), 9)))),
    "png of unknown chunks": lambda: png(filled(chunk(b"abCd", b""))),
    "png of frames": lambda: png(filled(chunk(b"fdAT", b"a"))),
    "png of empty pixels": lambda: png(filled(chunk(b"IDAT", b""))),
    "png of pixels of a byte": lambda: png(filled(chunk(b"IDAT", b"a"))),
    "png of palettes": lambda: png(filled(chunk(b"PLTE", bytes(3)))),
    "png of transparencies": lambda: png(filled(chunk(b"tRNS", b""))),
    "webp of EXIF": lambda: riff(CANVAS, filled(part(b"EXIF", b"")), LOSSY),
    "webp of XMP": lambda: riff(CANVAS, filled(part(b"XMP ", bytes(60_000))), LOSSY),
    "webp of alphas": lambda: riff(CANVAS, filled(part(b"ALPH", b"\0")), LOSSY),
    "webp of frames": lambda: riff(CANVAS, filled(part(b"ANMF", bytes(16))), LOSSY),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_image_takes_longer_than_its_pixels_justify(name):
    data = HOSTILE[name]()
    start = time.process_time()
    with suppress(UndecodableImage):
        assert decode.decode_image(data, LIMIT).shape == (24, 94, 3)
    assert time.process_time() - start < LONGEST_S


@pytest.mark.parametrize("colours", [0, 2, 6])
def test_a_png_that_inflates_far_beyond_its_pixels_is_refused(colours):
    deflater = zlib.compressobj(9)
    first = deflater.compress(bytes(2**24)) + deflater.flush(zlib.Z_FULL_FLUSH)
    bomb = first + 120 * (deflater.compress(bytes(2**24)) + deflater.flush(zlib.Z_FULL_FLUSH)) + deflater.flush()
    start = time.process_time()
    with pytest.raises(UndecodableImage, match="far more than its pixels"):
        decode.decode_image(png(pixels=bomb, colours=colours), LIMIT)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:2] + segment(0xE2, b"ICC_PROFILE\0forged") * 3 + segment(0xFE, b"forged") + JPEG[2:],
        png(chunk(b"iCCP", b"forged\0\0"), chunk(b"tEXt", b"forged\0a"), chunk(b"sRGB", b"\0")),
        riff(CANVAS, part(b"ICCP", b"forged"), LOSSY, part(b"EXIF", b"forged"), part(b"XMP ", b"forged")),
    ],
)
def test_metadata_never_reaches_a_decoder(data):
    assert b"forged" in data
    assert b"forged" not in contain(data).data
    assert decode.decode_image(data, LIMIT).shape == (24, 94, 3)


def test_what_decoders_print_names_nothing_of_the_file(capfd):
    decode.decode_image(png(chunk(b"iCCP", b"\nERROR: forged\0\0" + zlib.compress(bytes(140)))), LIMIT)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", images.seeds())
def test_the_header_alone_tells_how_many_pixels_there_are(name):
    data = images.seeds()[name]
    image = decode.check(data, LIMIT)
    expected = image.width * image.height if image.format in containers.WALKED else 0
    assert containers.announced(data) == expected


@pytest.mark.parametrize("name", HOSTILE)
def test_no_header_takes_long_to_tell(name):
    data = HOSTILE[name]()
    start = time.process_time()
    assert containers.announced(data) in (0, 24 * 94)
    assert time.process_time() - start < LONGEST_S / 10


def test_a_file_of_nothing_else_is_not_copied():
    assert contain(JPEG).data is JPEG
    plain = saved("PNG")
    assert contain(plain).data is plain


@pytest.mark.parametrize("odd", [b"\xff", b"junk", b"\xff\x01", b"\xff\xd0"])
def test_what_stands_between_segments_is_left_out(odd):
    assert contain(JPEG[:2] + odd + JPEG[2:]).data == JPEG


@pytest.mark.parametrize("odd", [b"\xff\xd8", segment(0xC3, bytes(15)), segment(0x02, b""), b"\xff\xe0\0\1"])
def test_jpegs_that_decoders_would_guess_around_are_refused(odd):
    with pytest.raises(UndecodableImage):
        contain(JPEG[:2] + odd + JPEG[2:])


def test_ordinary_numbers_of_segments_and_chunks_are_read():
    jpeg = JPEG[:2] + segment(0xE2, bytes(100)) * (MAX_SEGMENTS - 100) + JPEG[2:]
    many = png(chunk(b"tEXt", b"a\0b") * (MAX_CHUNKS - 100))
    assert (contain(jpeg).width, contain(many).width) == (94, 94)


def test_a_large_image_has_fewer_scans(monkeypatch):
    """A hundred scans of 25 million pixels would take seconds."""
    monkeypatch.setattr(containers, "MAX_SCAN_PIXELS", 41 * 94 * 24)
    assert contain(images.scan_bomb(30, images.plain())).width == 94
    with pytest.raises(UndecodableImage, match="more than 41 scans"):
        contain(images.scan_bomb(41, images.plain()))


def test_a_jpeg_says_whether_it_is_whole():
    whole = saved("JPEG", images.plain(300, 200))
    assert [contain(data).truncated for data in (whole, whole + b"more", whole[:-2], whole[:-100])] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (JPEG, "JPEG"),
        (png(), "PNG"),
        (saved("BMP"), "BMP"),
        (WEBP, "WebP"),
        (saved("GIF"), "GIF"),
        (saved("TIFF"), "TIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", None),
        (b"%PDF-1.7", "PDF"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "SVG"),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_formats_are_known_by_their_first_bytes(data, name):
    assert sniff(data) == sniff(bytearray(data)) == name


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"%PDF-1.7", "PDF document.*JPEG or PNG"), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing.*PNG")],
)
def test_documents_are_refused_by_name(data, told):
    with pytest.raises(UnsupportedMediaType, match=told):
        decode.decode_image(data, LIMIT)


def test_a_heic_photo_without_its_decoder_is_told_how_to_be_read(monkeypatch):
    monkeypatch.setattr(decoder_process, "EXTRA", "no_such_module")
    with pytest.raises(UnsupportedMediaType, match=r"HEIC photo: install lpr\[heif\] on the server, or send JPEG"):
        decode.decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", LIMIT)


def heic() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    target = io.BytesIO()
    pillow_heif.from_pillow(images.plain(128, 64)).save(target, quality=-1)
    return target.getvalue()


OTHERS = {
    "GIF": lambda: saved("GIF", images.plain(128, 64), save_all=True, append_images=[Image.new("RGB", (128, 64))]),
    "TIFF": lambda: saved("TIFF", images.plain(128, 64), save_all=True, append_images=[Image.new("RGB", (9, 9))]),
    "TIFF-LZW": lambda: saved("TIFF", images.plain(128, 64), compression="tiff_lzw"),
    "AVIF": lambda: saved("AVIF", images.plain(128, 64), quality=95),
    "HEIC": heic,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_show_their_first_frame(name):
    data = OTHERS[name]()
    expected = np.asarray(images.plain(128, 64))[:, :, ::-1].astype(int)
    image = decode.decode_image(data, LIMIT)
    assert (image.shape, image.dtype) == ((64, 128, 3), np.uint8)
    assert np.abs(image - expected).mean() < 12
    with pytest.raises(TooManyPixels, match="128 x 64"):
        decode.decode_image(data, 128 * 64 - 1)
    with pytest.raises(UndecodableImage, match=name[:4]):
        decode.decode_image(data[: len(data) // 3], LIMIT)


def test_a_tiff_of_tags_that_all_point_to_everything_takes_little_time_and_memory():
    """Pillow reads what each tag points to: 65,535 tags in a file of 8 MB would be 500 GB."""
    count, size = 60_000, 8 * 1024**2
    tags = b"".join(struct.pack("<HHII", 300 + number % 60_000, 1, size, 8) for number in range(count))
    data = b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + struct.pack("<H", count) + tags + bytes(4)
    start = time.monotonic()
    with pytest.raises(UndecodableImage, match="TIFF"):
        decode.decode_image(data, LIMIT)
    assert time.monotonic() - start < 30
