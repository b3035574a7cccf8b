"""Images that tests send, and one that they must not decode."""

import zlib

import cv2
import numpy as np
from numpy.typing import NDArray


def picture(width: int = 94, height: int = 24) -> NDArray[np.uint8]:
    """A smooth colourful BGR image."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * 255) // width, (y * 255) // height, ((x + y) * 255) // (width + height)]
    return np.stack(planes, axis=2).astype(np.uint8)


def encode(extension: str = ".jpg", image: NDArray[np.generic] | None = None) -> bytes:
    """An image file's bytes."""
    return cv2.imencode(extension, picture() if image is None else image)[1].tobytes()


def png_bomb(side: int = 50_000) -> bytes:
    """The beginning of a PNG whose header announces `side` x `side` pixels."""
    data = bytearray(encode(".png"))[:64]
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)
