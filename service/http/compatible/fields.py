"""Fields of a request of another product's client: one image and some short texts, as a form, urlencoded or JSON.

Clients send fields that nobody here needs, so unknown names are no error. Their number and length are bounded, and the
image is whatever the bytes are: a file, or one in base64.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import unquote_plus

from starlette.requests import Request

from service.errors import MalformedBody, NoImage, TooManyImages
from service.http import bounded_json
from service.http.uploads import (
    FORM,
    JSON,
    Form,
    Limits,
    Part,
    Upload,
    decode_base64,
    feed,
    joined,
    limited,
    media_type_of,
    parsed,
    shortened,
)
from service.reading.containers import Encoded, sniff

URLENCODED: Final = "application/x-www-form-urlencoded"
IMAGES: Final = ("upload", "image")  # names under which clients send the image
ADDRESS: Final = "upload_url"
MOST_FIELDS: Final = 50
MOST_TEXT: Final = 4000  # bytes of a text

# What base64, and a data: URL, becomes in a urlencoded body. Decoding it in general makes an object of each escape.
_ESCAPES: Final = {f"%{ord(char):02X}".encode(): char.encode() for char in "+/=:;,\r\n "}


@dataclass
class Fields:
    """The fields of a request: its image, and of each other field the texts."""

    image: Upload | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)

    def put(self, image: Upload) -> None:
        """Take the image; an empty field counts as unset. Raises TooManyImages for a second one."""
        if not image.content:
            return
        if self.image:
            raise TooManyImages("The request holds more than one image: send them in several requests.")
        self.image = image

    def text(self, name: str) -> str | None:
        """The first text of a field."""
        return next(iter(self.texts.get(name, ())), None)

    def add(self, name: str, text: str) -> None:
        """Add a text of a field that is no image."""
        self.texts.setdefault(name, []).append(text)


async def read_fields(request: Request, limits: Limits) -> Fields:
    """The fields of a request, with an image; raises InputError, as `uploads.read_images` does."""
    media_type, options = media_type_of(request.headers.get("content-type"))
    chunks = limited(request, limits.max_bytes)
    if media_type == FORM:
        fields = await _multipart(chunks, options.get(b"boundary", b""))
    elif media_type == JSON:
        fields = await parsed(await joined(chunks), _json)
    elif media_type == URLENCODED:
        fields = await parsed(await joined(chunks), _urlencoded)
    else:
        raise NoImage(f"Send a form with the image as the part {IMAGES[0]!r}.")
    if fields.image is None and (address := fields.text(ADDRESS)):
        fields.image = Upload(None, b"", address)
    if fields.image is None:
        raise NoImage(f"There is no image, or an empty one: send it as the part {IMAGES[0]!r} of a form.")
    return fields


async def _multipart(chunks: AsyncIterator[bytes], boundary: bytes) -> Fields:
    form = _Fields()
    await feed(form, chunks, boundary)
    fields = Fields()
    for name, part in form.texts:
        fields.add(name, part.data.decode("utf-8", "replace"))
    for part in form.images:
        fields.put(await parsed(part.data, partial(_image, part.filename)))
    return fields


class _Fields(Form):
    """Collects images and some short texts from a multipart body."""

    def __init__(self) -> None:
        super().__init__(max_images=MOST_FIELDS)
        self.texts: list[tuple[str, Part]] = []
        self._part = Part(None, "")
        self._most: float = 0

    def begin(self, name: str, part: Part) -> None:
        """Take a part whose head is there."""
        self._part, self._most = part, float("inf") if name in IMAGES else MOST_TEXT
        _check_number(len(self.images) + len(self.texts) + 1)
        if name in IMAGES:
            self.images.append(part)
        else:
            self.texts.append((name, part))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if len(self._part.data) + end - start > self._most:
            raise _too_long()
        self._part.data.extend(memoryview(data)[start:end])


def _urlencoded(body: bytearray) -> Fields:
    _check_number(1 + body.count(b"&"))
    fields = Fields()
    for pair in body.split(b"&"):
        name, _, value = pair.partition(b"=")
        if len(name) > MOST_TEXT or (bytes(name).decode("latin-1") not in IMAGES and len(value) > MOST_TEXT):
            raise _too_long()
        key = unquote_plus(name.decode("latin-1"))
        if key not in IMAGES:
            fields.add(key, unquote_plus(value.decode("latin-1")))
        else:
            for escape, char in _ESCAPES.items():
                value = value.replace(escape, char).replace(escape.lower(), char)
            fields.put(_image(None, value))
    return fields


def _json(body: bytearray) -> Fields:
    value = bounded_json.load(body, 1)
    if not isinstance(value, dict):
        raise MalformedBody("The JSON body is no object: send one with the image in base64.")
    _check_number(len(value))
    fields = Fields()
    for name, content in value.items():
        if name in IMAGES and isinstance(content, str):
            fields.put(Upload(None, decode_base64(content)))
        else:
            for text in _texts(content):
                fields.add(name, text)
    return fields


def _texts(content: Any) -> list[str]:
    """The texts that a value of JSON stands for; null, as an empty list, for none."""
    found = [one if isinstance(one, str) else json.dumps(one) for one in _listed(content) if one is not None]
    if any(len(text) > MOST_TEXT for text in found):
        raise _too_long()
    return found


def _listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _image(filename: str | None, data: bytearray) -> Upload:
    """An image that came as a file, or in base64."""
    content: Encoded = data
    if data and not sniff(data) and data[:64].isascii():
        content = decode_base64(data.decode("latin-1"))
    return Upload(shortened(filename), content)


def _check_number(count: int) -> None:
    if count > MOST_FIELDS:
        raise MalformedBody(f"The request holds more than {MOST_FIELDS} fields: send fewer.")


def _too_long() -> MalformedBody:
    return MalformedBody(f"The request holds a text of over {MOST_TEXT:,} bytes: shorten it.")
