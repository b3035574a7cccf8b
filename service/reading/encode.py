"""Encoding of images: BGR pixels to the file of a format, without EXIF, location, profile or any other metadata."""

from typing import Final, NamedTuple

import cv2

from service.errors import UndecodableImage
from service.reading.containers import Format
from service.reading.geometry import Pixels


class Kind(NamedTuple):
    """How a format is written: suffix of a file, media type, parameters for OpenCV."""

    suffix: str
    media_type: str
    parameters: tuple[int, ...] = ()


QUALITY: Final = 95  # of JPEG and WebP: what was no plate looks as before
JPEG: Final = Kind(".jpg", "image/jpeg", (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
KINDS: Final[dict[Format, Kind]] = {
    "JPEG": JPEG,
    "PNG": Kind(".png", "image/png"),
    "BMP": Kind(".bmp", "image/bmp"),
    "WebP": Kind(".webp", "image/webp", (cv2.IMWRITE_WEBP_QUALITY, QUALITY)),
    "TIFF": Kind(".tiff", "image/tiff"),
    "GIF": Kind(".gif", "image/gif"),
    "AVIF": Kind(".avif", "image/avif"),
}


def kind_of(format: Format | None) -> Kind:
    """How an image of this format is written again: in the same one, or as JPEG where OpenCV cannot write it."""
    kind = KINDS.get(format, JPEG) if format else JPEG
    return kind if cv2.haveImageWriter(f"image{kind.suffix}") else JPEG


def encode(pixels: Pixels, kind: Kind) -> bytes:
    """The file of an image (H, W, 3); raises UndecodableImage where the format cannot hold it, by its size."""
    try:
        written, data = cv2.imencode(kind.suffix, pixels, kind.parameters)
    except cv2.error:
        written = False
    if not written:
        height, width = pixels.shape[:2]
        raise UndecodableImage(f"An image of {width} x {height} pixels is no {kind.media_type}: send it as PNG.")
    return bytes(data)
