"""Mutated images are read or refused, whatever the mutation; they never do anything else."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import EmptyImage, TooManyPixels, UndecodableImage, UnsupportedMediaType
from service.reading import decode, geometry
from tests.support.images import encode, picture

SIZE = (24, 94)  # height and width that the network takes

SEEDS = [encode(extension, picture(60, 30)) for extension in (".jpg", ".png", ".bmp", ".webp")]
LIMIT = 200_000


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An image with bytes overwritten, cut out, repeated or cut off."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 8))):
        # Half of the mutations hit the header, where the structure is.
        at = draw(st.integers(0, min(len(data), 64) if draw(st.booleans()) else len(data)))
        match draw(st.sampled_from(["overwrite", "delete", "repeat", "insert"])):
            case "overwrite":
                new = draw(st.binary(min_size=1, max_size=4))
                data[at : at + len(new)] = new
            case "delete":
                del data[at : at + draw(st.integers(1, 40))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=20))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutated_images_are_read_or_refused(data):
    try:
        image = decode.decode_image(data, LIMIT)
    except (EmptyImage, TooManyPixels, UndecodableImage, UnsupportedMediaType):  # by its first bytes, a PDF
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.size <= 3 * LIMIT
    assert geometry.prepare(image, SIZE).shape == (*SIZE, 3)


@pytest.mark.parametrize("seed", SEEDS, ids=["jpeg", "png", "bmp", "webp"])
def test_an_image_with_something_appended_is_read(seed):
    assert decode.decode_image(seed + b"PK\x03\x04" + bytes(100), LIMIT).shape == (30, 60, 3)
