"""Every error that the service raises on purpose. No HTTP in here: `api.py` maps each class to a status.

::

    LprError
    ├── ArtifactError             the artifact cannot be trusted or run; the server does not start
    │   └── UnknownVariant        no folder of that name below LPR_ARTIFACTS
    ├── InputError                the client sent something that cannot be read; its message says what to do
    │   ├── BadParameter          a query parameter out of range
    │   ├── BodyTooLarge          more bytes than LPR_MAX_BYTES
    │   ├── ClientGone            the connection ended before the body did, or before the images were read
    │   ├── EmptyImage            an image of zero bytes
    │   ├── MalformedBody         a multipart body that does not parse
    │   ├── NoImage               a request without an image
    │   ├── SlowUpload            a body that took longer than LPR_UPLOAD_S to arrive
    │   ├── TooManyImages         more `image` parts than LPR_MAX_IMAGES
    │   ├── TooManyPixels         more pixels than LPR_MAX_PIXELS
    │   ├── UndecodableImage      not an image, or too little of one arrived
    │   └── UnsupportedMediaType  a content type other than the accepted ones
    └── Unavailable               the fault is not the client's; the same request may succeed later
        ├── Busy                  the queue is full, or the memory for what arrives is
        ├── Stopping              the server is shutting down
        └── TooLate               the images waited longer than LPR_DEADLINE_MS
"""

import re
from typing import ClassVar


class LprError(Exception):
    """Base of all errors raised on purpose; `str(error)` is a sentence for a human, `slug` a word for a machine."""

    slug: ClassVar[str] = "lpr_error"

    def __init_subclass__(cls) -> None:
        cls.slug = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


class ArtifactError(LprError):
    """The artifact is missing, damaged, of another version, or does not compute what its probe says."""


class UnknownVariant(ArtifactError):
    """There is no artifact of the requested name."""


class InputError(LprError):
    """The client's fault; the message says what to send instead."""


class BadParameter(InputError):
    """A query parameter is missing, of the wrong type or out of range."""


class BodyTooLarge(InputError):
    """The request body exceeds the limit on bytes."""


class ClientGone(InputError):
    """The client closed the connection before its request was complete, or before its images were read."""


class EmptyImage(InputError):
    """An image was announced, but it has no bytes."""


class MalformedBody(InputError):
    """The multipart body does not parse."""


class NoImage(InputError):
    """The request holds no image."""


class SlowUpload(InputError):
    """The request's body did not arrive in the time that it is given."""


class TooManyImages(InputError):
    """The request holds more images than allowed."""


class TooManyPixels(InputError):
    """The image's header announces more pixels than allowed."""


class UndecodableImage(InputError):
    """The bytes are not an image of an accepted type, or are cut off so early that nothing can be read."""


class UnsupportedMediaType(InputError):
    """The content type is not an accepted one."""


class Unavailable(LprError):
    """The server cannot take the request now; it is no fault of the client's."""


class Busy(Unavailable):
    """As many images are waiting, or as many bytes held, as the limits allow."""


class Stopping(Unavailable):
    """The server is shutting down and takes no new work."""


class TooLate(Unavailable):
    """The images waited so long that nobody is likely to want the answer."""
