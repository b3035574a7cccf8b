"""Decoding of images: encoded bytes to BGR pixels, once for training, evaluation and serving alike. Pure functions.

`decode_plate` decodes a crop of a plate and `decode_photograph` a photograph, perhaps reduced; `decode_image` decodes
any image at its full size.
`geometry.prepare` makes of the pixels what a network takes.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from service.errors import EmptyImage, TooManyPixels, UndecodableImage, UnsupportedMediaType
from service.reading import decoder_process
from service.reading.containers import (
    DAMAGED,
    Contained,
    Encoded,
    check_inflated,
    contain,
    sniff,
)
from service.reading.geometry import Pixels, prepare

MARGIN = 4  # a JPEG of a plate is decoded reduced only where it stays so many times as large as the network's input
ENOUGH = 1600  # pixels of the longer side that a reduced photograph has at least: the finder looks at 960
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
TURNED = (5, 6, 7, 8)  # EXIF's orientations that exchange width and height
MIRRORED = {2: 1, 4: 0, 5: 1, 7: 1}  # OpenCV's code of the flip that comes first
ROTATED = {3: cv2.ROTATE_180, 5: cv2.ROTATE_90_COUNTERCLOCKWISE, 6: cv2.ROTATE_90_CLOCKWISE}
ROTATED |= {7: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
REFUSED = {  # formats that cannot be read, always or in this installation
    "HEIC": "This is a HEIC photo: install lpr[heif] on the server, or send JPEG.",
    "AVIF": "This is an AVIF image: install lpr[heif] on the server, or send JPEG.",
    "PDF": "This is a PDF document: send its page as JPEG or PNG.",
    "SVG": "This is an SVG drawing: send it as PNG.",
}

MAX_SIDE = 65_500  # pixels, as libjpeg has it; libpng takes a million at most, and complains on stderr
MISSING_GREY = (128, 128, 128)  # libjpeg's colour for what did not arrive
MISSING_SHARE = 0.5  # of the pixels; beyond it, a truncated image is of no use
STRIP = 256  # rows that are laid on white at a time

Image.MAX_IMAGE_PIXELS = None  # `check` has its own limit


@dataclass(frozen=True)
class Decoded:
    """An image as it is to be seen."""

    pixels: Pixels  # BGR uint8 (H, W, 3), perhaps reduced
    size: tuple[int, int]  # width and height before they were reduced
    truncated: bool = False  # whether its file ended early, so that a part of it is grey

    @property
    def reduced(self) -> float:
        """Pixels of the image a pixel of `pixels`."""
        return self.size[0] / int(self.pixels.shape[1])


def decode_image(data: Encoded, max_pixels: int) -> Pixels:
    """An encoded image to BGR uint8 (H, W, 3), EXIF orientation applied.

    Grey, palette, CMYK and 16-bit images become 8-bit BGR, transparent ones are laid over white; of an animation or a
    document it is the first frame or page. A JPEG that was cut off is read if at least half of it arrived. Raises
    EmptyImage, TooManyPixels (from the header alone, before anything is decoded), UnsupportedMediaType or
    UndecodableImage.
    """
    return decode(check(data, max_pixels), max_pixels).pixels


def check(data: Encoded, max_pixels: int) -> Contained:
    """What decoding needs of an encoded image whose header promises no more than `max_pixels`; raises as
    `decode_image` does.

    The size of a GIF, TIFF, AVIF or HEIC is not known yet: it is 0 x 0.
    """
    if not data:
        raise EmptyImage("The image has no bytes: send the content of the file.")
    kind = sniff(data)
    if kind in decoder_process.FORMATS and decoder_process.has_decoder(kind):
        return Contained(kind, 0, 0, data)
    if kind in REFUSED:
        raise UnsupportedMediaType(REFUSED[kind])
    image = contain(data)
    _check_size(image.width, image.height, max_pixels)
    return image


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if not width * height:
        raise UndecodableImage(f"The image has {width} x {height} pixels: send one that shows something.")
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The image has {width} x {height} pixels; at most {max_pixels:,} are accepted: send a smaller one."
        )
    if max(width, height) > MAX_SIDE:
        raise TooManyPixels(
            f"The image has {width} x {height} pixels; at most {MAX_SIDE:,} are accepted in a row or a column: send a "
            "part of it."
        )


def decode_plate(image: Contained, max_pixels: int, wanted: tuple[int, int]) -> Decoded:
    """As `decode`, of an image of one plate.

    `wanted` is the height and width that the network takes.

    A large JPEG comes reduced by 2, 4 or 8, as far as MARGIN allows: then libjpeg computes a fraction of the pixels,
    and leaves out frequencies that `prepare` would average away.
    """
    factor = 1
    least_height, least_width = (MARGIN * length for length in wanted)
    if image.format == "JPEG" and max(image.width, image.height) >= 2 * max(least_height, least_width):
        width, height = _turned(image)
        fitting = [by for by in REDUCED if width >= by * least_width and height >= by * least_height]
        factor = max(fitting, default=1)
    return decode(image, max_pixels, factor)


def decode_photograph(image: Contained, max_pixels: int) -> Decoded:
    """As `decode`, of a photograph in which plates are to be found: a JPEG comes reduced as far as ENOUGH allows."""
    longer = max(image.width, image.height)
    factor = max(by for by in REDUCED if by == 1 or longer >= by * ENOUGH) if image.format == "JPEG" else 1
    return decode(image, max_pixels, factor)


def decode(image: Contained, max_pixels: int, factor: int = 1) -> Decoded:
    """The pixels of an image that was checked, each side divided by `factor` where it is a JPEG's.

    Raises TooManyPixels, UnsupportedMediaType or UndecodableImage.
    """
    if image.format in decoder_process.FORMATS:
        return _decode_guarded(image, max_pixels)
    if image.format == "PNG":
        if image.truncated:
            raise UndecodableImage(DAMAGED)
        check_inflated(image)
    pixels = _transparent(image) if image.alpha else _imdecode(image, REDUCED[factor])
    if pixels is None or (image.truncated and _missing(pixels) > MISSING_SHARE):
        raise UndecodableImage(DAMAGED)
    pixels = _upright(pixels, image.orientation)
    size = _turned(image) if factor > 1 else (pixels.shape[1], pixels.shape[0])
    return Decoded(pixels, size, image.truncated)


def _turned(image: Contained) -> tuple[int, int]:
    """Width and height once the orientation is applied."""
    return (image.height, image.width) if image.orientation in TURNED else (image.width, image.height)


def _decode_guarded(image: Contained, max_pixels: int) -> Decoded:
    word, width, height, pixels = decoder_process.run(image.data, image.format, max_pixels)
    if word in (decoder_process.READ, decoder_process.TOO_LARGE):
        _check_size(width, height, max_pixels)
    if word == decoder_process.NO_DECODER:
        raise UnsupportedMediaType(REFUSED[image.format])
    if word != decoder_process.READ or len(pixels) != 3 * width * height:
        raise UndecodableImage(f"The {image.format} image is damaged or of a rare kind: send it as JPEG or PNG.")
    return Decoded(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), (width, height))


def load(data: Encoded, max_pixels: int, wanted: tuple[int, int]) -> Pixels:
    """An encoded image of one plate to the network's input, as the server does it; raises as `decode_image` does."""
    return prepare(decode_plate(check(data, max_pixels), max_pixels, wanted).pixels, wanted)


def _imdecode(image: Contained, flags: int) -> Pixels | None:
    """What OpenCV makes of an image; None if nothing."""
    try:
        pixels = cv2.imdecode(np.frombuffer(image.data, np.uint8), flags)
    except cv2.error:
        return None
    return None if pixels is None else np.asarray(pixels)


def _missing(pixels: Pixels) -> float:
    """The share of the pixels that have the colour of what did not arrive."""
    return float(cv2.inRange(pixels, MISSING_GREY, MISSING_GREY).mean()) / 255


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn or mirror an image as EXIF's orientation tells, from 1 to 8."""
    if orientation in MIRRORED:
        pixels = np.asarray(cv2.flip(pixels, MIRRORED[orientation]), np.uint8)
    if orientation in ROTATED:
        pixels = np.asarray(cv2.rotate(pixels, ROTATED[orientation]), np.uint8)
    return pixels


def _transparent(image: Contained) -> Pixels | None:
    """A PNG or WebP that may be transparent as it is seen on a white page; its colours alone if all of it is.

    OpenCV would drop the transparency, and show what was hidden: often black, on which black characters vanish.
    """
    pixels = _imdecode(image, cv2.IMREAD_UNCHANGED)
    if pixels is not None and (pixels.ndim < 3 or pixels.shape[2] < 4):  # OpenCV sees none; of a grey PNG, it cannot
        pixels = _transparent_grey(image)
    if pixels is None:
        return _imdecode(image, cv2.IMREAD_COLOR)
    visible = bool(pixels[..., 3].any())
    flat = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), STRIP):
        strip = pixels[top : top + STRIP]
        if strip.dtype == np.uint16:
            strip = (strip >> 8).astype(np.uint8)
        colours = cv2.cvtColor(strip, cv2.COLOR_BGRA2BGR)
        if visible:
            alpha = cv2.merge([cv2.extractChannel(strip, 3)] * 3)
            colours = cv2.add(cv2.multiply(colours, alpha, scale=1 / 255), cv2.bitwise_not(alpha))
        flat[top : top + STRIP] = colours
    return flat


def _transparent_grey(image: Contained) -> Pixels | None:
    """BGRA of a grey PNG, of which one shade is transparent."""
    try:
        with Image.open(io.BytesIO(image.data), formats=("PNG", "WEBP")) as opened:
            return np.asarray(opened.convert("RGBA"))[:, :, [2, 1, 0, 3]]
    except Exception:  # its decoders raise whatever hostile bytes lead them to; OpenCV has the last word on those
        return None
