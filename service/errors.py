"""Every error that the service raises on purpose. No HTTP in here: `http.error_responses` gives each class a status.

::

    LprError
    ├── ArtifactError             the artifact cannot be trusted or run; the server does not start
    │   └── UnknownVariant        no folder of that name below LPR_ARTIFACTS
    ├── ClientError               `service.client` did not get what it asked for
    │   ├── Refused               the server answered with an error
    │   └── Unreachable           no answer came
    ├── InputError                the client sent something that cannot be read; its message says what to do
    │   ├── BadKey                no API key, or none that is known
    │   ├── BadParameter          a parameter or form field that is unknown, repeated or out of range
    │   ├── BodyTooLarge          more bytes than LPR_MAX_BYTES
    │   ├── ClientGone            the connection ended before the body did, or before the images were read
    │   ├── EmptyImage            an image of zero bytes
    │   ├── Forbidden             nobody may do that, as the server was started
    │   ├── MalformedBody         a multipart or JSON body that does not parse
    │   ├── NoImage               a request without an image
    │   ├── NoSuchVariant         the address names a variant that is not installed
    │   ├── SlowUpload            a body that took longer than LPR_UPLOAD_S to arrive
    │   ├── TooManyImages         more `image` parts than LPR_MAX_IMAGES
    │   ├── TooManyPixels         more pixels than LPR_MAX_PIXELS, or than a request may hold
    │   ├── UndecodableImage      not an image, or too little of one arrived
    │   ├── Unfetchable           no image came from the address that a request names
    │   └── UnsupportedMediaType  a content type other than the accepted ones
    └── Unavailable               the fault is not the client's; the same request may succeed later
        ├── Busy                  the queue is full, or the memory for what arrives is
        ├── Stopping              the server is shutting down
        ├── TooLate               the request waited longer than LPR_DEADLINE_MS for its turn
        └── VariantUnusable       a variant that is installed cannot be loaded, or does not prove itself
"""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import ClassVar, Final

from pydantic import ValidationError

ECHOED: Final = 200  # characters of what a client sent, at most, in an answer


def quoted(text: str) -> str:
    """What a client sent, in quotes and without control characters; its beginning, if it is long."""
    said = repr(text[:ECHOED])
    return said if len(said) <= ECHOED else f"{said[: ECHOED - 1]}…"


def printable(text: str) -> str:
    """The text with every character that is not printable as its JSON escape: no line ends in it, no terminal obeys
    it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def first_fault(error: ValidationError) -> str:
    """Where data does not fit its model, and why; of the data itself only names of members."""
    first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "its content"
    return f"{where[:ECHOED]}: {first['msg']}"


def check_names(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise BadParameter for a name that is not known, or that was given twice; `kind` is what has the names."""
    for number, name in enumerate(given):
        if name not in known:
            close = [f" The nearest is {near}." for near in get_close_matches(name[:ECHOED], known, 1)]
            choice = f"send only {', '.join(known)}" if known else "this address takes none"
            raise BadParameter(f"There is no {kind} {quoted(name)}: {choice}.{''.join(close)}")
        if name in given[:number]:
            raise BadParameter(f"The {kind} {name} is given more than once: give it once.")


def brief(text: object, most: int = 200) -> str:
    """A foreign text, such as a library's error, as part of a sentence: one line of at most `most` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


class LprError(Exception):
    """Base of all errors raised on purpose; `str(error)` is a sentence for a human, `slug` a word for a machine."""

    slug: ClassVar[str] = "lpr_error"

    def __init_subclass__(cls) -> None:
        cls.slug = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


class ArtifactError(LprError):
    """The artifact is missing, damaged, of another version, or does not compute what its probe says."""


class UnknownVariant(ArtifactError):
    """There is no artifact of the requested name."""


class ClientError(LprError):
    """A client of the server did not get what it asked for."""


class Refused(ClientError):
    """The server answered with an error; the message is the server's."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class Unreachable(ClientError):
    """The server did not answer."""


class InputError(LprError):
    """The client's fault; the message says what to send instead."""


class BadKey(InputError):
    """The request carries no API key, or none that this server knows."""


class BadParameter(InputError):
    """A parameter or form field is unknown, repeated, of the wrong type or out of range."""


class BodyTooLarge(InputError):
    """The request body exceeds the limit on bytes."""


class ClientGone(InputError):
    """The client closed the connection before its request was complete, or before its images were read."""


class EmptyImage(InputError):
    """An image was announced, but it has no bytes."""


class Forbidden(InputError):
    """The server was started in a way that lets nobody do that."""


class MalformedBody(InputError):
    """The multipart or JSON body does not parse."""


class NoImage(InputError):
    """The request holds no image."""


class NoSuchVariant(InputError):
    """The address names a variant that is not installed."""


class SlowUpload(InputError):
    """The request's body did not arrive in the time that it is given."""


class TooManyImages(InputError):
    """The request holds more images than allowed."""


class TooManyPixels(InputError):
    """The header of an image, or those of a request's images together, announce more pixels than allowed."""


class UndecodableImage(InputError):
    """The bytes are not an image of an accepted type, or are cut off so early that nothing can be read."""


class Unfetchable(InputError):
    """The image at an address cannot be fetched, or must not be."""


class UnsupportedMediaType(InputError):
    """The content type is not an accepted one."""


class Unavailable(LprError):
    """The server cannot take the request now; it is no fault of the client's."""


class Busy(Unavailable):
    """As much is waiting, or as many bytes are held, as the limits allow."""


class Stopping(Unavailable):
    """The server is shutting down and takes no new work."""


class TooLate(Unavailable):
    """The request waited so long for its turn that nobody is likely to want the answer."""


class VariantUnusable(Unavailable):
    """A variant is installed, but its engine is missing, its files are damaged, or its probe fails."""
