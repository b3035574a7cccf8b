"""Parsing of JSON that a client sent, bounded in time and memory before any object is made from it.

A byte of JSON can become a hundred bytes of Python objects, and one character beyond ASCII makes each character of its
text take up to four bytes. Hence the values and the long texts are counted in the bytes first.
"""

from typing import Any

from pydantic_core import from_json

from service.errors import MalformedBody

LONG_TEXT = 1000  # bytes; a longer text is an image in base64, so it is all ASCII
SPARE_TEXTS, TEXTS_AN_IMAGE = 100, 20  # texts that a request needs, names of members included
VALUES_A_NUMBER = 2  # a number, and a list around it at most
BYTES_A_VALUE = 32  # outside of texts, indentation included
LONG_NUMBER = 40  # digits; the time to read an integer grows with their square
_ZEROS = bytes.maketrans(b"123456789", b"000000000")


def load(body: bytes | bytearray, images: int, numbers: int = 0) -> Any:
    """The value that a JSON body holds, with as many texts as `images` need, and as many `numbers` beside them.

    Takes at most the memory of the body twice more, and about 100 bytes for each value. Raises MalformedBody.
    """
    texts = SPARE_TEXTS + TEXTS_AN_IMAGE * images
    if body.count(b'"') > 2 * texts or not _is_bounded(body, texts + VALUES_A_NUMBER * numbers):
        raise MalformedBody(f"The JSON body holds more than a request of {images} images needs: send fewer values.")
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBody(f"The body is not JSON ({error}): let a JSON library write it.") from error


def _is_bounded(body: bytes | bytearray, most: int) -> bool:
    """Whether it holds at most so many values: each is the first of the body, a list or an object, or after a comma.

    Raises MalformedBody for a text or a number that would cost too much.
    """
    values, outside, length, ascii, inside = 1, 0, 0, True, False
    for piece in body.split(b'"'):
        if inside:
            length += len(piece)
            ascii = ascii and piece.isascii() and piece.count(b"\\u") == piece.count(b"\\u00")
            if length > LONG_TEXT and not ascii:
                raise MalformedBody(f"The JSON body holds a text beyond ASCII of over {LONG_TEXT} bytes: shorten it.")
            inside = (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1  # the quote after it is then part of the text
            continue
        values += sum(piece.count(mark) for mark in (b",", b"[", b"{"))
        outside += len(piece)
        if values > most or outside > BYTES_A_VALUE * most:
            return False
        if LONG_NUMBER * b"0" in piece.translate(_ZEROS):
            raise MalformedBody(f"The JSON body holds a number of {LONG_NUMBER} digits or more: send shorter ones.")
        length, ascii, inside = 0, True, True
    return True
