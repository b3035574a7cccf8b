"""The file formats of images: recognized by their first bytes, and reduced to what decoding needs.

Decoders spend time and memory on whatever a file carries: some take the square of the number of metadata segments, or
print what a colour profile is named. So no decoder sees a client's file as it came. A walk over its segments, linear
and bounded in their number, keeps the tables and the compressed pixels, and reads the size and the EXIF orientation.
It leaves out profiles, texts, previews, further frames, and whatever follows the image's end.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from service.errors import UndecodableImage

Encoded = bytes | bytearray
Format = Literal["JPEG", "PNG", "BMP", "WebP", "GIF", "TIFF", "AVIF", "HEIC", "PDF", "SVG"]
WALKED: Final = ("JPEG", "PNG", "BMP", "WebP")  # the formats that `contain` looks through

MAX_SEGMENTS: Final = 2_000  # in a JPEG; one with a large profile or depth map has some hundreds
MAX_SCANS: Final = 100  # in a JPEG; progressive ones have about ten
MAX_SCAN_PIXELS: Final = 500_000_000  # in all scans of a JPEG together: of 25 million pixels, twenty scans
MAX_BETWEEN: Final = 1024**2  # bytes of a JPEG between its segments,
MAX_PIXEL: Final = 16  # and of its compressed pixels, for each of them: all frequencies of four components
WINDOW: Final = 256 * 1024  # bytes of a JPEG that are searched at a time
MAX_CHUNKS: Final = 20_000  # in a PNG or WebP; 16 MB in chunks of 4 kB have 4,000
MAX_INFLATED: Final = 64 * 1024**2  # bytes that a PNG may inflate to beyond its pixels
DEFLATE: Final = 1032  # as many bytes at most become of one
PIECE: Final = 4096  # bytes that are inflated at a time
MAX_TAGS: Final = 200  # in an EXIF directory; cameras write about twenty

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # of a segment: neither stuffing, fill nor restart marker
JPEG_SCAN, EXIF = 0xDA, 0xE1
JPEG_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive
JPEG_TABLES = frozenset((0xC4, 0xDB, 0xDD))  # Huffman and quantization tables, restart interval
JPEG_LEFT_OUT = frozenset((*range(0xE0, 0xF0), 0xFE))  # what applications add, and comments
JPEG_TELLING = {0xE0: b"JFIF\0", EXIF: b"Exif\0\0", 0xEE: b"Adobe"}  # of these the first counts, by how it begins

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT"))
PNG_ONCE = frozenset((b"IHDR", b"PLTE", b"tRNS"))
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
PNG_WITH_ALPHA = (4, 6)  # colour types

WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH")
WEBP_ALPHA = 0x10  # a flag in the extended header
ORIENTATION, SHORT = 0x0112, 3  # EXIF's tag, and the type of its value

DAMAGED = "The image is damaged or was cut off: send the whole file, unchanged."


@dataclass(frozen=True)
class Contained:
    """An image file, reduced to what decoding needs."""

    format: Format
    width: int  # in pixels, as stored: before `orientation` is applied
    height: int
    data: Encoded
    orientation: int = 1  # as EXIF numbers them
    alpha: bool = False  # whether it may be transparent
    truncated: bool = False  # whether the file ends before the image does


def sniff(data: Encoded) -> Format | None:
    """The format of a file by its first bytes; None if it is no known one."""
    start = bytes(data[:12])
    if start.startswith(JPEG_START):
        return "JPEG"
    if start.startswith(PNG_START):
        return "PNG"
    if start.startswith(b"BM"):
        return "BMP"
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        return "WebP"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if start[4:8] == b"ftyp":
        return _sniff_brands(data)
    if b"%PDF-" in bytes(data[:1024]):
        return "PDF"
    text = bytes(data[:4096]).removeprefix(b"\xef\xbb\xbf").lstrip()
    return "SVG" if text.startswith(b"<") and b"<svg" in text else None


def _sniff_brands(data: Encoded) -> Format | None:
    """AVIF or HEIC by the brands of an ISO media file."""
    brands = {bytes(data[at : at + 4]) for at in range(8, min(int.from_bytes(data[:4], "big"), 128), 4)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"} else None


def contain(data: Encoded) -> Contained:
    """Reduce a JPEG, PNG, BMP or WebP to what decoding needs; raises UndecodableImage."""
    try:
        match sniff(data):
            case "JPEG":
                return _jpeg(data)
            case "PNG":
                return _png(data)
            case "BMP":
                return _bmp(data)
            case "WebP":
                return _webp(data)
    except struct.error as error:  # it ends within a header
        raise UndecodableImage(DAMAGED) from error
    raise UndecodableImage(
        "The image is not a readable JPEG, PNG, BMP, WebP, GIF, TIFF or AVIF file: send one of those."
    )


def announced(data: Encoded) -> int:
    """Pixels of a WALKED file by its header, without a look at the rest of it; 0 of one that `contain` refuses."""
    with suppress(struct.error, UndecodableImage):
        match sniff(data):
            case "JPEG":
                frames = (begin for marker, begin, *_ in _jpeg_segments(data) if marker in JPEG_FRAMES)
                begin = next(frames, len(data))
                return math.prod(struct.unpack_from(">HH", data, begin + 5))
            case "PNG":
                return math.prod(struct.unpack_from(">II", data, 16))
            case "BMP" | "WebP":
                image = contain(data)
                return image.width * image.height
    return 0


class _Kept:
    """Ranges of a file that are kept, in their order."""

    def __init__(self, data: Encoded, start: int) -> None:
        self._data = data
        self._ranges = [(0, start)]

    def add(self, begin: int, end: int) -> None:
        """Keep the bytes from `begin` up to `end`."""
        first, last = self._ranges[-1]
        if begin == last:
            self._ranges[-1] = (first, end)
        else:
            self._ranges.append((begin, end))

    def joined(self, end: bytes) -> Encoded:
        """What is kept, and then `end`; the file itself, without a copy, where it is just that."""
        if len(self._ranges) == 1 and self._data.startswith(end, self._ranges[0][1]):
            return self._data
        view = memoryview(self._data)
        return b"".join([*(view[first:last] for first, last in self._ranges), end])


def _jpeg(data: Encoded) -> Contained:
    """Keep tables, frame and scans, and the two segments that tell what the components are."""
    kept = _Kept(data, len(JPEG_START))
    size: tuple[int, int] | None = None
    exif: Encoded = b""
    told: set[int] = set()
    scans, ends = 0, 0
    for marker, begin, end, ends in _jpeg_segments(data):
        if marker in JPEG_TABLES:
            kept.add(begin, end)
        elif marker in JPEG_FRAMES and size is None:
            height, width = struct.unpack_from(">HH", data, begin + 5)
            size = width, height
            kept.add(begin, end)
        elif marker == JPEG_SCAN and size is not None:
            scans += 1
            _check_scans(scans, *size)
            kept.add(begin, ends)
        elif marker in JPEG_TELLING and marker not in told and data.startswith(JPEG_TELLING[marker], begin + 4):
            told.add(marker)
            if marker == EXIF:
                exif = data[begin + 10 : end]
            else:
                kept.add(begin, end)
        elif marker not in JPEG_LEFT_OUT and scans:  # what was a scan ends in damage
            ends = begin
            break
        elif marker not in JPEG_LEFT_OUT:
            raise UndecodableImage("The JPEG is of a rare kind, or damaged: save it again as an ordinary one.")
    if size is None or not scans:
        raise UndecodableImage(DAMAGED)
    truncated = not data.startswith(JPEG_END, ends)
    return Contained("JPEG", *size, kept.joined(JPEG_END), orientation(exif), truncated=truncated)


def _check_scans(scans: int, width: int, height: int) -> None:
    """A scan goes over all pixels, and takes a dozen bytes: a file of some megabytes could hold hours of work."""
    most = min(MAX_SCANS, max(1, MAX_SCAN_PIXELS // max(1, width * height)))
    if scans > most:
        raise UndecodableImage(f"The JPEG has more than {most} scans: save it again as an ordinary one.")


def _jpeg_segments(data: Encoded) -> Iterator[tuple[int, int, int, int]]:
    """The segments before the end: the marker, where it begins, where its content ends, where the next marker begins.

    ITU-T T.81, annex B. Markers are found as libjpeg finds them: from the end of a segment, or of a scan's header, to
    the next one, whatever stands between. Where none follows, the next begins at the end of the file.
    """
    size, left = len(data), MAX_BETWEEN
    found = _jpeg_marker(data, len(JPEG_START), left)
    begin = found.start() if found else size
    for _ in range(MAX_SEGMENTS):
        if found is None or found[0] == JPEG_END or begin + 4 > size:
            return
        marker, length = data[begin + 1], data[begin + 2] << 8 | data[begin + 3]
        end = begin + 2 + length
        if length < 2 or end > size:  # cut off, or damaged
            return
        if marker in JPEG_FRAMES:
            left += MAX_PIXEL * math.prod(struct.unpack_from(">HH", data, begin + 5))
        found = JPEG_MARKER.match(data, end) or _jpeg_marker(data, end, left)
        following = found.start() if found else size
        left -= following - end
        yield marker, begin, end, following
        begin = following
    raise UndecodableImage(f"The JPEG has more than {MAX_SEGMENTS:,} segments: save it again as an ordinary one.")


def _jpeg_marker(data: Encoded, at: int, most: int) -> re.Match[bytes] | None:
    """The next marker of a segment, `most` bytes away. Each search holds Python's lock, so it goes over a WINDOW."""
    for begin in range(at, len(data), WINDOW):
        if begin - at > most:
            raise UndecodableImage("The JPEG holds far more than its pixels: save it again as an ordinary one.")
        end = begin + WINDOW + 1  # it may lie across the window's end
        first = _first_marker(data, begin, end)
        if first is not None and (found := JPEG_MARKER.search(data, first, end)):
            return found
    return None


def _first_marker(data: Encoded, begin: int, end: int) -> int | None:
    """Where the first marker of any kind lies. In an ordinary photo that is megabytes away, and this takes a quarter of
    the time of the search."""
    if data.startswith(b"\xff", begin):
        return begin
    window = np.frombuffer(data, np.uint8, min(end, len(data)) - begin, begin)
    markers = (window[:-1] == 0xFF) & (window[1:] != 0)
    return begin + int(markers.argmax()) if markers.any() else None


def _png(data: Encoded) -> Contained:
    """Keep the header, the palette with its transparency, and the compressed pixels of the still image."""
    kept = _Kept(data, len(PNG_START))
    seen: set[bytes] = set()
    exif: Encoded = b""
    ends = 0
    for kind, begin, ends in _png_chunks(data):
        if (kind in PNG_ONCE and kind in seen) or (not seen and kind != b"IHDR"):
            raise UndecodableImage(DAMAGED)
        seen.add(kind)
        if kind in PNG_KEPT:
            kept.add(begin, ends)
        elif kind == b"eXIf" and not exif:
            exif = data[begin + 8 : ends - 4]
    width, height, colours = struct.unpack_from(">IIxB", data, 16)
    alpha = colours in PNG_WITH_ALPHA or b"tRNS" in seen
    truncated = b"IDAT" not in seen or not data.startswith(b"IEND", ends + 4)
    return Contained("PNG", width, height, kept.joined(PNG_END), orientation(exif), alpha, truncated)


def _png_chunks(data: Encoded) -> Iterator[tuple[bytes, int, int]]:
    """The whole chunks before the end: name, where it begins, where the next one does.

    W3C Portable Network Graphics, 5.3.
    """
    at = len(PNG_START)
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length  # its length, name and checksum are four bytes each
        if kind == b"IEND" or end > len(data):
            return
        yield kind, at, end
        at = end
    raise UndecodableImage(f"The PNG has more than {MAX_CHUNKS:,} chunks: save it again as an ordinary one.")


def check_inflated(image: Contained) -> None:
    """Refuse a PNG whose compressed pixels become far more bytes than it has pixels: libpng inflates them to the end.

    Takes as long as inflating them; where they are too few to become many, nothing.
    """
    data = image.data
    depth, colours, interlaced = struct.unpack_from(">BBxxB", data, 24)
    row = 1 + -(-image.width * depth * PNG_CHANNELS.get(colours, 4) // 8)
    left = image.height * row * (2 if interlaced else 1) + MAX_INFLATED
    if DEFLATE * len(data) <= left:
        return
    view = memoryview(data)
    chunks = (view[begin + 8 : end - 4] for kind, begin, end in _png_chunks(data) if kind == b"IDAT")
    pieces = (chunk[at : at + PIECE] for chunk in chunks for at in range(0, len(chunk), PIECE))
    inflater = zlib.decompressobj()
    with suppress(zlib.error):  # where libpng ends as well
        while not inflater.eof and left >= 0 and (piece := next(pieces, None)) is not None:
            left -= len(inflater.decompress(piece))
    if left < 0:
        raise UndecodableImage("The PNG holds far more than its pixels: save it again as an ordinary one.")


def _bmp(data: Encoded) -> Contained:
    """A BMP has nothing to leave out; rows from the top down have a negative height."""
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return Contained("BMP", abs(width), abs(height), data)


def _webp(data: Encoded) -> Contained:
    """Write a still image of nothing but the pixels and their transparency; of an animation, the first frame.

    RFC 9649, section 2. The size is that of the canvas, or of the pixels where they are more.
    """
    end = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    canvas, exif = (0, 0), bytearray()
    pixels: dict[bytes, memoryview] = {}
    for kind, content in _riff_chunks(data, 12, end):
        if kind == b"VP8X":
            canvas = 1 + _uint24(content, 4), 1 + _uint24(content, 7)
        elif kind == b"EXIF" and not exif:
            exif += content.tobytes().removeprefix(b"Exif\0\0")
        elif kind == b"ANMF" and not pixels:
            pixels.update(_riff_chunks(content, 16, len(content)))
        elif kind in WEBP_PIXELS:
            pixels.setdefault(kind, content)
    size, alpha, still = _webp_still(pixels)
    size = max(canvas, size, key=math.prod)
    return Contained("WebP", *size, still, orientation(exif), alpha)


def _webp_still(pixels: dict[bytes, memoryview]) -> tuple[tuple[int, int], bool, bytes]:
    """Size, whether it may be transparent, and the file of a frame by its chunks."""
    if lossless := pixels.get(b"VP8L"):
        (bits,) = struct.unpack_from("<I", lossless, 1)
        size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        return size, bool(bits >> 28 & 1), _riff({b"VP8L": lossless})
    lossy = pixels.get(b"VP8 ", memoryview(b""))
    width, height = struct.unpack_from("<HH", lossy, 6)
    size = width & 0x3FFF, height & 0x3FFF
    if (alpha := pixels.get(b"ALPH")) is None:
        return size, False, _riff({b"VP8 ": lossy})
    header = struct.pack("<I", WEBP_ALPHA) + b"".join((max(1, side) - 1).to_bytes(3, "little") for side in size)
    return size, True, _riff({b"VP8X": header, b"ALPH": alpha, b"VP8 ": lossy})


def _riff_chunks(data: Encoded | memoryview, at: int, end: int) -> Iterator[tuple[bytes, memoryview]]:
    """Names and contents of the chunks of a RIFF file between two places."""
    view = memoryview(data)
    for _ in range(MAX_CHUNKS):
        if at + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", view, at)
        if at + 8 + length > end:
            raise UndecodableImage(DAMAGED)
        yield kind, view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    raise UndecodableImage(f"The WebP has more than {MAX_CHUNKS:,} chunks: save it again as an ordinary one.")


def _riff(chunks: dict[bytes, bytes | memoryview]) -> bytes:
    parts = [
        (kind, struct.pack("<I", len(content)), content, bytes(len(content) % 2)) for kind, content in chunks.items()
    ]
    body = b"".join(piece for part in parts for piece in part)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _uint24(data: memoryview, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def orientation(exif: Encoded) -> int:
    """The orientation that a TIFF header with its first directory names, from 1 (upright) to 8."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(exif[:4]))
    try:
        if order is None:
            return 1
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * min(count, MAX_TAGS), 12):
            tag, kind, value = struct.unpack_from(f"{order}HH4xH", exif, entry)
            if tag == ORIENTATION:
                return value if kind == SHORT and 1 <= value <= 8 else 1
    except struct.error:  # it ends within the directory
        pass
    return 1
