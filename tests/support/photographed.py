"""A photograph with two plates as a file, and what became of its plates."""

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.photographs import street, with_plate

NEAR = [(300.0, 400.0), (520.0, 410.0), (516.0, 480.0), (298.0, 466.0)]
FAR = [(700.0, 300.0), (790.0, 296.0), (792.0, 324.0), (701.0, 329.0)]
BOTH = with_plate(with_plate(street(), "yellow", FAR), "blue", NEAR)
LATITUDE, MAKE, ORIENTATION, GPS = 2, 0x010F, 0x0112, 0x8825


def with_location(orientation: int = 1, format: str = "JPEG") -> bytes:
    """BOTH with EXIF, a location in it."""
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "a camera", orientation
    exif.get_ifd(GPS)[LATITUDE] = (47.0, 22.0, 0.0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(BOTH[..., ::-1])).save(file, format, exif=exif, comment=b"at home")
    return file.getvalue()


def pixels(file: bytes) -> NDArray[np.uint8]:
    """The pixels of an image file, BGR."""
    return np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def detail(image: NDArray[np.uint8], corners: list[tuple[float, float]]) -> float:
    """How much of a plate's strokes is left: the mean change from pixel to pixel within it."""
    left, top = np.min(corners, 0).astype(int)
    right, bottom = np.max(corners, 0).astype(int)
    grey = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2GRAY)
    return float(np.abs(np.diff(grey.astype(float), axis=1)).mean())
