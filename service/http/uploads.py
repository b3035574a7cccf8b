"""Uploads: the images of a request body, taken out while it arrives, so that a limit ends the reading at once."""

import asyncio
import binascii
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from service.errors import (
    ECHOED,
    BadParameter,
    BodyTooLarge,
    ClientGone,
    InputError,
    MalformedBody,
    NoImage,
    TooManyImages,
    UndecodableImage,
    UnsupportedMediaType,
    check_names,
    first_fault,
    quoted,
)
from service.http import bounded_json
from service.http.schema import JsonImage, JsonImages
from service.reading.containers import Encoded, sniff

IMAGE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/webp")
OCTETS = "application/octet-stream"
FIELD = "image"
MEDIA_TYPE = 500  # characters of a Content-Type that are looked at
FORM = "multipart/form-data"
JSON = "application/json"

ACCEPTED = (
    f"send the image's file as the body, {FORM} with one or more parts named {FIELD!r}, or {JSON} with images in base64"
)
EXAMPLE = '{"images": [{"data": "<base64>", "filename": "plate.jpg"}]}'

PARSED_AT_ONCE = 64 * 1024  # bytes of a body; a larger one is parsed on a thread, to keep the event loop free
# A thread of its own: the event loop's default ones also read files, and their queue has no bound.
_parser = ThreadPoolExecutor(1, "parser")

_URL_SAFE = bytes.maketrans(b"-_", b"+/")

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Most bytes in a request body, most images in it."""

    max_bytes: int
    max_images: int


@dataclass(frozen=True)
class Upload:
    """One encoded image, or why it is not even looked at; `filename` is the one that the client gave it, if any."""

    filename: str | None
    content: Encoded | InputError
    url: str | None = None  # where it is, if it is not in the request


async def read_images(request: Request, limits: Limits, parameters: Sequence[str]) -> list[Upload]:
    """The images of a request: its raw body, the `image` parts of a multipart body, or those in JSON. At least one.

    Only a form and JSON go by the Content-Type; of anything else the bytes decide. What is wrong with a single image is
    its content, and the others are not lost. `parameters` are those of the query, which are refused as form fields.
    Raises InputError: UnsupportedMediaType, NoImage, TooManyImages, BadParameter, BodyTooLarge, MalformedBody or
    ClientGone.
    """
    media_type, options = media_type_of(request.headers.get("content-type"))
    chunks = limited(request, limits.max_bytes)
    if media_type == FORM:
        return await _read_multipart(chunks, options.get(b"boundary", b""), Form(limits.max_images, parameters))
    body = await joined(chunks)
    if media_type == JSON:
        return await parsed(body, partial(_read_json, max_images=limits.max_images))
    if not body and not _may_be_image(media_type):
        raise NoImage(f"The request has no body: {ACCEPTED}.")
    return [_upload(None, media_type, body)]


async def parsed(body: bytearray, parse: Callable[[bytearray], T]) -> T:
    """What `parse` makes of a body; a large one is parsed on a thread."""
    if len(body) <= PARSED_AT_ONCE:
        return parse(body)
    return await asyncio.get_running_loop().run_in_executor(_parser, parse, body)


async def gone(request: Request) -> None:
    """Return once the client has closed the connection; for when the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_whole(request: Request, limits: Limits) -> bytearray:
    """The body of a request, whatever it is; raises BodyTooLarge, ClientGone or UnsupportedMediaType."""
    return await joined(limited(request, limits.max_bytes))


async def joined(chunks: AsyncIterator[bytes]) -> bytearray:
    """All of a body; it grows in place, so that a large one is not held twice."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
    return body


async def limited(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body's chunks, none of them empty, up to `max_bytes`; a longer announced length is refused before any."""
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        sentence = f"The Content-Encoding {quoted(encoding)} is not accepted: send the body as it is."
        raise UnsupportedMediaType(sentence)
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


async def _read_multipart(chunks: AsyncIterator[bytes], boundary: bytes, form: "Form") -> list[Upload]:
    await feed(form, chunks, boundary)
    if not form.images:
        raise NoImage(f"The multipart body has no part named {FIELD!r}: {ACCEPTED}.")
    return [_upload(part.filename, part.media_type, part.data) for part in form.images]


async def feed(form: "Form", chunks: AsyncIterator[bytes], boundary: bytes) -> None:
    """Put the parts of a multipart body into a form while they arrive; raises MalformedBody."""
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


def _read_json(body: bytearray, max_images: int) -> list[Upload]:
    try:
        value = bounded_json.load(body, max_images)
        body.clear()  # the texts in `value` are a copy
        images = JsonImages.model_validate(value).images
    except MalformedBody as error:
        raise MalformedBody(f"{error} An example is {EXAMPLE}.") from error
    except ValidationError as error:
        raise MalformedBody(f"The JSON body is not {EXAMPLE}: {first_fault(error)}.") from error
    if not images:
        raise NoImage(f"The JSON body holds no image: {ACCEPTED}.")
    check_count(len(images), max_images)
    return [_decoded(image) for image in images]


def _decoded(image: JsonImage) -> Upload:
    if image.data is None:
        return Upload(shortened(image.filename), b"", image.url)
    try:
        return Upload(shortened(image.filename), decode_base64(image.data))
    except UndecodableImage as refusal:
        return Upload(shortened(image.filename), refusal)


def decode_base64(text: str) -> bytes:
    """The bytes of an image in base64, which may have line breaks or be a data: URL; raises UndecodableImage.

    The URL-safe alphabet and base64 without padding are read too.
    """
    head, comma, rest = text.partition(",")
    coded = rest if comma and head.startswith("data:") else text
    try:
        clean = coded.encode("ascii").translate(_URL_SAFE, delete=b" \t\r\n")
        clean += -len(clean) % 4 * b"="
        return binascii.a2b_base64(clean, strict_mode=True)
    except ValueError as error:
        raise UndecodableImage("The image is not base64: encode the whole file, and nothing else.") from error


def _upload(filename: str | None, media_type: str, data: bytes | bytearray) -> Upload:
    """An image, or anything else that a client sent in the place of one."""
    if _may_be_image(media_type) or sniff(data):
        return Upload(shortened(filename), data)
    said = f"has the Content-Type {quoted(media_type)}" if media_type else "has no Content-Type"
    looks = "looks like JSON" if data[:64].lstrip().startswith((b"{", b"[")) else "is no image that is known"
    sentence = f"The content {said} and {looks}: {ACCEPTED}."
    return Upload(shortened(filename), UnsupportedMediaType(sentence))


def _may_be_image(media_type: str) -> bool:
    """Whether decoding has to say what is wrong with the bytes, if anything is."""
    return media_type.startswith("image/") or media_type == OCTETS


def media_type_of(header: str | None) -> tuple[str, dict[bytes, bytes]]:
    """A Content-Type, in lower case, and its options."""
    kind, options = parse_options_header(header and header[:MEDIA_TYPE])  # 2 us a character
    return kind.decode("latin-1"), options


def shortened(filename: str | None) -> str | None:
    """A file's name as it comes back with the result."""
    return None if filename is None else filename[:ECHOED]


def check_count(count: int, max_images: int) -> None:
    """Raise TooManyImages for more than a request may hold."""
    if count > max_images:
        raise TooManyImages(f"The request holds more than {max_images} images: send them in several requests.")


@dataclass(frozen=True)
class Part:
    """A part of a form that holds an image, or that should."""

    filename: str | None
    media_type: str
    data: bytearray = field(default_factory=bytearray)


class Form:
    """Collects the `image` parts of a multipart body from the parser's events; there may be no others."""

    def __init__(self, max_images: int, parameters: Sequence[str] = ()) -> None:
        self._parameters = parameters
        self.images: list[Part] = []
        self.complete = False
        self._max_images = max_images
        self._headers: dict[str, str] = {}
        self._name = bytearray()
        self._value = bytearray()

    def callbacks(self) -> dict[str, object]:
        """The events as `MultipartParser` names them."""
        names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        self._headers = {}

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
        filename = options.get(b"filename")
        name = None if filename is None else filename.decode("utf-8", "replace")
        part = Part(name, media_type_of(self._headers.get("content-type"))[0])
        self.begin(options.get(b"name", b"").decode("utf-8", "replace"), part)

    def begin(self, name: str, part: Part) -> None:
        """Take a part whose head is there."""
        if name in self._parameters:
            raise BadParameter(f"{name} is no form field: put it into the address, as ?{name}=VALUE.")
        check_names("form field", [name], [FIELD])
        check_count(len(self.images) + 1, self._max_images)
        self.images.append(part)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.images[-1].data.extend(memoryview(data)[start:end])

    def _end(self) -> None:
        self.complete = True
