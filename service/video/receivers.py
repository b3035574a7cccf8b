"""Receivers of events beside MQTT: a file of JSON lines, and a webhook."""

import hashlib
import hmac
import http.client
import io
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from service.errors import BadParameter, brief
from service.video.addresses import split
from service.video.outbox import NotTaken

TIMEOUT_S: Final = 10.0  # for the connection, for the request, and for the head of the answer as a whole
BUSY: Final = (408, 425, 429)  # statuses below 500 that say nothing of the event itself
SIGNATURE: Final = "X-LPR-Signature"
USAGE: Final = (
    "A webhook is http://HOST or https://HOST, with :PORT, /PATH and ?QUERY if needed, and without a user. "
    "Spaces, and what is not ASCII, are percent-encoded."
)


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


class _Bytes(io.RawIOBase):
    """The bytes of a socket until a time of `time.monotonic`; reading raises TimeoutError from then on."""

    def __init__(self, connection: socket.socket, end: float) -> None:
        self._connection, self._end = connection, end
        self._stream = connection.makefile("rb", buffering=0)  # keeps the socket open

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """What has come, or else what comes before the end."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        """Let go of the socket."""
        self._stream.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that must come in time as a whole: the timeout of a socket holds for each read alone."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Bytes(sock, time.monotonic() + TIMEOUT_S))


class _Plain(http.client.HTTPConnection):
    response_class = _Answer


class _Tls(http.client.HTTPSConnection):
    response_class = _Answer


class _OverPlain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        """Open a connection whose answers must come in time."""
        return self.do_open(_Plain, req)


class _OverTls(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        """Open a connection whose answers must come in time."""
        return self.do_open(_Tls, req)


class Webhook:
    """Posts events to an address, signed with a secret."""

    def __init__(self, address: str, secret: bytes | None) -> None:
        """Raises BadParameter for an address to which nothing can be posted."""
        parts = split(address, USAGE)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise BadParameter(USAGE)
        if not re.fullmatch(r"[!-~]+", address):  # http.client sends nothing else
            raise BadParameter(USAGE)
        self._address, self._secret = address, secret
        self._opener = urllib.request.build_opener(_NoRedirection, _OverPlain, _OverTls)

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
            raise NotTaken(f"the webhook does not answer: {brief(error)}") from error
        except http.client.HTTPException as error:
            raise NotTaken(f"what the webhook answers is not HTTP: {brief(error) or type(error).__name__}") from error

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
