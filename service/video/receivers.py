"""Receivers of events beside MQTT: a file of JSON lines, and a webhook."""

import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from service.video.outbox import NotTaken

TIMEOUT_S: Final = 10.0
BUSY: Final = (408, 425, 429)  # statuses below 500 that say nothing of the event itself
SIGNATURE: Final = "X-LPR-Signature"


class JsonLines:
    """Appends events to a file, one a line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def send(self, body: str) -> None:
        """Append, unless it is the last line already: then the process ended before it could note that."""
        line = body.encode() + b"\n"
        try:
            with self._file.open("a+b") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - len(line)))
                before = stream.read()
                if before.endswith(line):
                    return
                stream.write(line if not before or before.endswith(b"\n") else b"\n" + line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise NotTaken(f"the file cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Nothing is open."""


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Leaves a redirection to be refused: followed, a POST would become a GET without the event."""

    def redirect_request(self, *_: object) -> None:
        """None."""


class Webhook:
    """Posts events to an address, signed with a secret."""

    def __init__(self, address: str, secret: bytes | None) -> None:
        self._address, self._secret = address, secret
        self._opener = urllib.request.build_opener(_NoRedirection)

    def send(self, body: str) -> None:
        """Post; any status but 2xx is a refusal, a redirection too."""
        content = body.encode()
        headers = {"Content-Type": "application/json", "User-Agent": "lpr", "X-LPR-Event": json.loads(body)["id"]}
        if self._secret:
            headers[SIGNATURE] = signature(self._secret, content, int(time.time()))
        request = urllib.request.Request(self._address, content, headers)  # noqa: S310 (--webhook allows http alone)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            with error:
                alone = 300 <= error.code < 500 and error.code not in BUSY
                raise NotTaken(f"the webhook answered {error.code}", alone) from error
        except (OSError, ValueError) as error:
            raise NotTaken(f"the webhook does not answer: {error}") from error

    def close(self) -> None:
        """Nothing is open."""


def signature(secret: bytes, body: bytes, at: int) -> str:
    """The header of a body: the Unix time, and HMAC-SHA256 in hex of the time, a dot and the body."""
    code = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={code}"


def verified(secret: bytes, body: bytes, header: str, now: float, tolerance_s: float = 300.0) -> bool:
    """Whether a header is that of the body, and not older than the tolerance."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    at = parts.get("t", "")
    fresh = at.isdecimal() and abs(now - int(at)) <= tolerance_s
    return fresh and hmac.compare_digest(signature(secret, body, int(at)), header)
