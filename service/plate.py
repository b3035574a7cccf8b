"""What stands before the network, once for training, evaluation and serving alike. Pure functions.

Encoded bytes -> `decode_plate` -> BGR image -> `prepare` -> the crop that the network takes, of its manifest's size.
(`decode_image` does the same without reducing, for whole photographs from which plates are cut.)
What comes after the network is in `text.py`.
"""

import io
import re

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.errors import EmptyImage, TooManyPixels, UndecodableImage

WIDTH, HEIGHT = 94, 24  # of the crops that the builder's networks take; servers look into the manifest
SIZE = HEIGHT, WIDTH
MARGIN = 4  # a JPEG of a plate is decoded reduced only where it stays so many times as large as the network's input
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # Exif's tag, and its values that exchange width and height
IMAGE_TYPES = ("JPEG", "PNG", "BMP", "WEBP")

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
JPEG_OTHERS = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))  # tables and what applications add
JPEG_SCAN = b"\xff\xda"
JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])")
JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers that no length follows
MAX_SCANS = 100  # in a JPEG; progressive ones have about ten
MISSING_GREY = 128  # libjpeg's colour for what did not arrive
MISSING_SHARE = 0.5  # of the pixels; beyond it, a truncated image is of no use

PNG_START = b"\x89PNG\r\n\x1a\n"

Image.MAX_IMAGE_PIXELS = None  # `decode_image` has its own limit

Encoded = bytes | bytearray
Pixels = NDArray[np.uint8]


def decode_image(data: Encoded, max_pixels: int) -> Pixels:
    """An encoded JPEG, PNG, BMP or WebP to BGR uint8 (H, W, 3), EXIF orientation applied.

    Grey, palette, CMYK and 16-bit images become 8-bit BGR, transparent ones are laid over white; of an animation it is
    the first frame. A JPEG that was cut off is read if at least half of it arrived. Raises EmptyImage, TooManyPixels
    (from the header alone, before anything is decoded) or UndecodableImage.
    """
    check_size(data, max_pixels)
    return _decode(data)


def check_size(data: Encoded, max_pixels: int) -> tuple[int, int]:
    """Width and height of an encoded image by its header alone, not turned yet; raises as `decode_image` does."""
    if not data:
        raise EmptyImage("The image has no bytes: send the content of the file.")
    width, height = _size(data)
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The image has {width} x {height} pixels; at most {max_pixels:,} are accepted: send a smaller one."
        )
    return width, height


def decode_plate(
    data: Encoded, size: tuple[int, int], wanted: tuple[int, int] = SIZE
) -> tuple[Pixels, tuple[int, int]]:
    """As `decode_image`, an image of one plate whose `size` was checked; also its width and height, turned.

    `wanted` is the height and width that the network takes.

    A large JPEG comes reduced by 2, 4 or 8, as far as MARGIN allows: then libjpeg computes a fraction of the pixels,
    and leaves out frequencies that `prepare` would average away. Raises UndecodableImage.
    """
    least_height, least_width = (MARGIN * length for length in wanted)
    if data.startswith(JPEG_START) and max(size) >= 2 * max(least_height, least_width):
        width, height = size[::-1] if _is_turned(data) else size
        fitting = [by for by in REDUCED if width >= by * least_width and height >= by * least_height]
        factor = max(fitting, default=1)
        image = _imdecode(data, REDUCED[factor]) if factor > 1 else None
        # Where decoders disagree on how it is turned, or it is damaged, it is decoded whole.
        if image is not None and image.shape[:2] == (-(-height // factor), -(-width // factor)):
            return image, (width, height)
    image = _decode(data)
    return image, (image.shape[1], image.shape[0])


def load(data: Encoded, max_pixels: int, wanted: tuple[int, int] = SIZE) -> Pixels:
    """An encoded image of one plate to the network's input, as the server does it; raises as `decode_image` does."""
    return prepare(decode_plate(data, check_size(data, max_pixels), wanted)[0], wanted)


def _is_turned(data: Encoded) -> bool:
    """Whether Exif says that rows are columns."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            return header.getexif().get(ORIENTATION) in TURNED
    except Exception:  # as in `_size`; whoever decodes it will tell
        return False


def _decode(data: Encoded) -> Pixels:
    image = _imdecode(data)
    if image is None and data.startswith(JPEG_START):
        image = _decode_truncated(data)
    if image is None:
        raise UndecodableImage("The image is damaged or was cut off: send the whole file, unchanged.")
    return image


def prepare(image: Pixels, wanted: tuple[int, int] = SIZE) -> Pixels:
    """A BGR crop (H, W, 3) of one plate to the network's input uint8 (*wanted, 3).

    Areas are averaged where the crop shrinks in both directions, else it is interpolated linearly.
    """
    if image.shape[:2] == wanted:
        return image
    shrinks = image.shape[0] >= wanted[0] and image.shape[1] >= wanted[1]
    resized = cv2.resize(image, wanted[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _size(data: Encoded) -> tuple[int, int]:
    """Width and height from the header. Pillow opens lazily: no pixel is decoded."""
    if data.startswith(JPEG_START):
        if _has_too_many_scans(data):
            raise UndecodableImage(f"The JPEG has more than {MAX_SCANS} scans: save it again as an ordinary one.")
        if size := _jpeg_size(data):
            return size
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_TYPES) as header:
            return header.size
    except Exception as error:  # its parsers raise whatever hostile bytes lead them to
        raise UndecodableImage("The image is not a readable JPEG, PNG, BMP or WebP file: send one of those.") from error


def _jpeg_size(data: Encoded) -> tuple[int, int] | None:
    """Width and height of an ordinary JPEG, in a tenth of the time that Pillow takes; None of any other.

    ITU-T T.81, annex B: segments with their lengths, and among them the frame's. What a decoder would have to guess
    around, such as bytes between segments, makes none ordinary, so that nobody can show it one size here and another
    to the decoder.
    """
    at = len(JPEG_START)
    while data[at : at + 1] == b"\xff" and len(data) >= at + 9:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in JPEG_FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker not in JPEG_OTHERS:
            return None
        at += 2 + length
    return None


def _has_too_many_scans(data: Encoded) -> bool:
    """Whether a JPEG would take far longer to decode than its size suggests.

    A scan of a progressive JPEG can go over all pixels in a dozen bytes, so a file of a few megabytes can hold hours of
    work. Markers are found as libjpeg finds them: from the end of a segment, or of a scan's header, to the next one.
    """
    if data.count(JPEG_SCAN) <= MAX_SCANS:
        return False
    scans, at = 0, len(JPEG_START)
    while scans <= MAX_SCANS and (found := JPEG_MARKER.search(data, at)) and found[0] != JPEG_END:
        scans += found[0] == JPEG_SCAN
        at = found.end()
        if found[1][0] not in JPEG_BARE:
            at += int.from_bytes(data[at : at + 2], "big")
    return scans > MAX_SCANS


def _imdecode(data: Encoded, flags: int = cv2.IMREAD_COLOR) -> Pixels | None:
    if data.startswith(PNG_START) and _claims_too_much(data):
        return None
    if _may_be_transparent(data) and (flat := _over_white(data)) is not None:
        return flat
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)


def _claims_too_much(data: Encoded) -> bool:
    """Whether a chunk of a PNG says that it is longer than all that follows; OpenCV would first make room for it, of 4
    GB if it says so, and take seconds to fill that with zeros."""
    at = len(PNG_START)
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        if length > len(data) - at:
            return True
        at += 12 + length  # its length, name and checksum are four bytes each
    return False


def _may_be_transparent(data: Encoded) -> bool:
    """By the header. A BMP's fourth byte is seldom meant so."""
    if data.startswith(PNG_START):
        return data[25:26] in (b"\x04", b"\x06") or b"tRNS" in data  # colour types with alpha, or a transparent colour
    flags = {b"VP8X": data[20:21], b"VP8L": data[24:25]}.get(bytes(data[12:16]), b"")
    return bool(flags and flags[0] & 0x10)  # the same bit in WebP's extended and in its lossless header


def _over_white(data: Encoded) -> Pixels | None:
    """A transparent PNG or WebP as it is seen on a page; None if nothing of it is opaque, or Pillow cannot read it.

    OpenCV would drop the transparency, and show what was hidden: often black, on which black characters vanish.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
            ImageOps.exif_transpose(image, in_place=True)
            layer = image.convert("RGBA")
    except Exception:  # its decoders raise whatever hostile bytes lead them to; OpenCV has the last word on those
        return None
    alpha = layer.getchannel("A")
    if alpha.getextrema()[1] == 0:
        return None
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=alpha)
    return np.ascontiguousarray(np.asarray(flat)[:, :, ::-1])


def _decode_truncated(data: Encoded) -> Pixels | None:
    """OpenCV refuses a JPEG without an end marker, but reads what is there once one is appended."""
    image = _imdecode(data + JPEG_END)
    if image is None or np.all(image == MISSING_GREY, axis=2).mean() > MISSING_SHARE:
        return None
    return image
