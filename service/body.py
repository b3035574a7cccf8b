"""Takes the images out of a request body while it arrives: a limit ends the reading, it does not follow it."""

import asyncio
import binascii
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from service.errors import (
    BodyTooLarge,
    ClientGone,
    InputError,
    MalformedBody,
    NoImage,
    TooManyImages,
    UndecodableImage,
    UnsupportedMediaType,
    first_fault,
)
from service.schema import JsonImage, JsonImages

IMAGE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/webp")
PART_TYPES = (*IMAGE_TYPES, "application/octet-stream", "")  # what clients send for a file whose type they don't know
FIELD = "image"
JSON = "application/json"

ACCEPTED = (
    f"send {', '.join(IMAGE_TYPES)}, multipart/form-data with one or more parts named {FIELD!r}, "
    f"or {JSON} with images in base64"
)


@dataclass(frozen=True)
class Limits:
    """Most bytes in a request body, most images in it."""

    max_bytes: int
    max_images: int


@dataclass(frozen=True)
class Upload:
    """One encoded image, or why it is not even looked at; `filename` is the one that the client gave it, if any."""

    filename: str | None
    data: bytes | bytearray = b""
    refusal: InputError | None = None


async def read_images(request: Request, limits: Limits) -> list[Upload]:
    """The images of a request: its raw body, the `image` parts of a multipart body, or those in JSON. At least one.

    What is wrong with a single image is its `refusal`, and the others are not lost. Raises InputError:
    UnsupportedMediaType, NoImage, TooManyImages, BodyTooLarge, MalformedBody or ClientGone.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    chunks = _limited(request, limits.max_bytes)
    match kind.decode("latin-1"):
        case "multipart/form-data":
            return await _read_multipart(chunks, options.get(b"boundary", b""), limits.max_images)
        case media_type if media_type in IMAGE_TYPES:
            return [Upload(None, await _joined(chunks))]
        case media_type if media_type == JSON:
            return await asyncio.to_thread(_read_json, await _joined(chunks), limits.max_images)
        case "":
            async for _ in chunks:
                raise UnsupportedMediaType(f"The request has no Content-Type: {ACCEPTED}.")
            raise NoImage(f"The request has no body: {ACCEPTED}.")
        case media_type:
            raise UnsupportedMediaType(f"The Content-Type {media_type!r} is not accepted: {ACCEPTED}.")


async def gone(request: Request) -> None:
    """Return once the client has closed the connection; for when the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_whole(request: Request, limits: Limits) -> bytes | bytearray:
    """The body of a request, whatever it is; raises BodyTooLarge, ClientGone or UnsupportedMediaType."""
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedMediaType(f"The Content-Encoding {encoding!r} is not accepted: send the body as it is.")
    return await _joined(_limited(request, limits.max_bytes))


async def _joined(chunks: AsyncIterator[bytes]) -> bytes | bytearray:
    """All of a body; without a copy, if it came in one piece as a small one does."""
    found = [chunk async for chunk in chunks]
    return found[0] if len(found) == 1 else bytearray().join(found)


async def _limited(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body's chunks, none of them empty, up to `max_bytes`; a longer announced length is refused before any."""
    refusal = BodyTooLarge(f"The request body is larger than {max_bytes:,} bytes: send fewer or smaller images.")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise refusal
    total = 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > max_bytes:
                raise refusal
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise ClientGone("The connection closed before the whole request had arrived: send it again.") from error


async def _read_multipart(chunks: AsyncIterator[bytes], boundary: bytes, max_images: int) -> list[Upload]:
    form = _Form(max_images)
    try:
        if not boundary:
            raise FormParserError("its Content-Type names no boundary")
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise MalformedBody(f"The multipart body does not parse ({error}): let an HTTP library compose it.") from error
    if not form.complete:
        raise MalformedBody("The multipart body ends before its last boundary: send it whole.")
    if not form.images:
        raise NoImage(f"The multipart body has no part named {FIELD!r}: {ACCEPTED}.")
    return form.images


def _read_json(body: bytes | bytearray, max_images: int) -> list[Upload]:
    try:
        images = JsonImages.model_validate_json(body).images
    except ValidationError as error:
        example = '{"images": [{"data": "<base64>", "filename": "plate.jpg"}]}'
        raise MalformedBody(f"The JSON body is not {example}: {first_fault(error)}.") from error
    if not images:
        raise NoImage(f"The JSON body holds no image: {ACCEPTED}.")
    check_count(len(images), max_images)
    return [_decoded(image) for image in images]


def _decoded(image: JsonImage) -> Upload:
    try:
        return Upload(image.filename, decode_base64(image.data))
    except UndecodableImage as refusal:
        return Upload(image.filename, refusal=refusal)


def decode_base64(text: str) -> bytes:
    """The bytes of an image in base64, which may have line breaks or be a data: URL; raises UndecodableImage."""
    head, comma, rest = text.partition(",")
    encoded = rest if comma and head.startswith("data:") else text
    try:
        return binascii.a2b_base64("".join(encoded.split()), strict_mode=True)
    except ValueError as error:
        raise UndecodableImage("The image is not base64: encode the whole file, and nothing else.") from error


def check_count(count: int, max_images: int) -> None:
    """Raise TooManyImages for more than a request may hold."""
    if count > max_images:
        raise TooManyImages(f"The request holds more than {max_images} images: send them in several requests.")


class _Form:
    """Collects the `image` parts of a multipart body from the parser's events, and skips all others."""

    def __init__(self, max_images: int) -> None:
        self.images: list[Upload] = []
        self.complete = False
        self._max_images = max_images
        self._headers: dict[str, str] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._data: bytearray | None = None  # of the part that is being read, if it is an image

    def callbacks(self) -> dict[str, object]:
        """The events as `MultipartParser` names them."""
        names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        self._headers, self._data = {}, None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._name.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        if options.get(b"name") != FIELD.encode():
            return
        kind = parse_options_header(self._headers.get("content-type"))[0].decode("latin-1")
        check_count(len(self.images) + 1, self._max_images)
        filename = options.get(b"filename")
        name = None if filename is None else filename.decode("utf-8", "replace")
        if kind in PART_TYPES:
            self._data = bytearray()
            self.images.append(Upload(name, self._data))
        else:
            sentence = f"The part has the Content-Type {kind!r}: send one of {', '.join(IMAGE_TYPES)}."
            self.images.append(Upload(name, refusal=UnsupportedMediaType(sentence)))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._data is not None:
            self._data += memoryview(data)[start:end]

    def _end(self) -> None:
        self.complete = True
