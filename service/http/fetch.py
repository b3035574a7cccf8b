"""Fetching of images by their address, from hosts that LPR_FETCH names; everything else is refused.

What a client names decides where this server connects, so nothing of it is trusted: the host must be named by the
operator, all its addresses must be public, the connection goes to the very address that was checked (a second answer
of the DNS changes nothing), a redirect is checked as the first address was, and bytes and seconds are bounded.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from starlette.requests import Request

from service.errors import BodyTooLarge, InputError, Unfetchable, brief
from service.http.uploads import Upload

PORTS: Final = {"http": 80, "https": 443}
MOST_REDIRECTS: Final = 3
FETCH_S: Final = 10.0  # seconds for an image, redirects included
LONGEST: Final = 2000  # characters of an address
AT_ONCE: Final = 4  # images that are fetched at a time
PIECE: Final = 64 * 1024  # bytes
REDIRECTS: Final = (301, 302, 303, 307, 308)
HEADERS: Final = {"User-Agent": "lpr", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}


class Target(NamedTuple):
    """A checked address: where to connect, and what to ask for there."""

    scheme: str
    host: str
    port: int
    path: str
    address: str  # IP address


class Fetcher:
    """Fetches images from a list of hosts."""

    def __init__(self, hosts: Iterable[str], max_bytes: int) -> None:
        """`hosts` are names, or names with a port; without one, the ports of http and https are meant."""
        self._hosts = frozenset(hosts)
        self.max_bytes = max_bytes
        self._pool = ThreadPoolExecutor(AT_ONCE, "fetch")  # of its own: a slow host delays nobody else

    async def get(self, url: str, limit: int) -> bytes:
        """The bytes at an address, at most `limit`; raises Unfetchable or BodyTooLarge."""
        until = time.monotonic() + FETCH_S
        try:
            async with asyncio.timeout(FETCH_S):
                return await asyncio.get_running_loop().run_in_executor(self._pool, self._get, url, limit, until)
        except TimeoutError as error:
            raise _too_slow() from error

    def _get(self, url: str, limit: int, until: float) -> bytes:
        """On a thread."""
        for _ in range(1 + MOST_REDIRECTS):
            target = self.check(url)
            try:
                answer = _ask(target, limit, until)
            except (OSError, HTTPException) as error:
                raise Unfetchable(f"The image's host did not answer ({brief(error)}): try again.") from error
            if isinstance(answer, bytes):
                return answer
            if target.scheme == "https" and answer.startswith("http:"):
                raise Unfetchable("The image's host redirects from https to http: name the address itself.")
            url = urljoin(url, answer)
        raise Unfetchable(f"The image's host redirects more than {MOST_REDIRECTS} times: name the address itself.")

    def check(self, url: str) -> Target:
        """Where an address leads; raises Unfetchable where nothing may be fetched."""
        parts, port = _split(url)
        host = (parts.hostname or "").lower()
        named = f"{host}:{port}" if port != PORTS[parts.scheme] or f"{host}:{port}" in self._hosts else host
        if named not in self._hosts:
            raise Unfetchable("Images are fetched only from the hosts that LPR_FETCH names: send the file instead.")
        path = parts.path or "/"
        return Target(parts.scheme, host, port, f"{path}?{parts.query}" if parts.query else path, _resolve(host, port))


async def fetched(request: Request, uploads: Sequence[Upload], fetcher: Fetcher | None) -> list[Upload]:
    """The images of a request, those that it names by their address fetched; an error of one is its content.

    All that is fetched for a request is bounded as its body is, and counts as bytes that the server holds.
    """
    found, total = [], 0
    for upload in uploads:
        if upload.url is not None:
            upload = replace(upload, content=await _content(upload.url, fetcher, total), url=None)
            if isinstance(upload.content, bytes):
                total += len(upload.content)
                request.state.hold(len(upload.content))
        found.append(upload)
    return found


async def _content(url: str, fetcher: Fetcher | None, total: int) -> bytes | InputError:
    if fetcher is None:
        return Unfetchable("This server fetches no images by their address: send the file; LPR_FETCH names hosts.")
    try:
        return await fetcher.get(url, fetcher.max_bytes - total)
    except InputError as error:
        return error


def _split(url: str) -> tuple[SplitResult, int]:
    """The parts of an address of http or https, and its port."""
    try:
        if len(url) > LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise ValueError
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc:
            raise ValueError
        return parts, parts.port or PORTS[parts.scheme]
    except ValueError as error:
        raise Unfetchable(
            f"The image's address is not one of http or https, of at most {LONGEST:,} characters of ASCII."
        ) from error


def _resolve(host: str, port: int) -> str:
    """An IP address of a host, all of whose addresses are public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unfetchable("The image's host has no address: check the name.") from error
    addresses = [str(address[0]) for *_, address in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise Unfetchable("The image's host has an address in a private network: send the file instead.")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also one that carries an IPv4 address in it."""
    if "%" in address:
        return False
    inner: IPv4Address | IPv6Address | None = ip_address(address)
    while inner is not None:
        if not inner.is_global or inner.is_multicast or inner.is_reserved:
            return False
        inner = _carried(inner) if isinstance(inner, IPv6Address) else None
    return True


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which one of IPv6 is translated or tunnelled."""
    if int(address) >> 32 == 0x0064FF9B << 64:  # NAT64
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


class _Plain(HTTPConnection):
    """A connection to an address that was checked, whatever the DNS says by now."""

    def __init__(self, target: Target, connected: socket.socket) -> None:
        super().__init__(target.host, target.port)
        self._connected = connected

    def connect(self) -> None:
        """Take the connection that is there."""
        self.sock = self._connected


class _Secure(HTTPSConnection):
    """The same with TLS; the certificate must be that of the host's name."""

    def __init__(self, target: Target, connected: socket.socket) -> None:
        super().__init__(target.host, target.port, context=_tls())
        self._connected = connected

    def connect(self) -> None:
        """Take the connection that is there, and shake hands."""
        self.sock = _tls().wrap_socket(self._connected, server_hostname=self.host)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _ask(target: Target, limit: int, until: float) -> bytes | str:
    """The content at a target, or the address that it redirects to. Raises OSError, HTTPException, InputError."""
    left = until - time.monotonic()
    if left <= 0:
        raise _too_slow()
    with socket.create_connection((target.address, target.port), left) as plain, _cut(plain, until):
        connection = (_Secure if target.scheme == "https" else _Plain)(target, plain)
        with closing(connection):
            connection.request("GET", target.path, headers=HEADERS)
            answer = _answer(connection.getresponse(), limit)
    if time.monotonic() >= until:  # what was cut may look whole
        raise _too_slow()
    return answer


@contextmanager
def _cut(connection: socket.socket, until: float) -> Iterator[None]:
    """Meanwhile the connection ends when time is up: a host that sends a byte a second meets no timeout of a socket."""
    with connection.dup() as twin:  # TLS takes the socket itself over

        def cut() -> None:
            with suppress(OSError):  # it has ended already
                twin.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(0.0, until - time.monotonic()), cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _answer(response: HTTPResponse, limit: int) -> bytes | str:
    if response.status in REDIRECTS:
        return response.getheader("Location") or ""
    if response.status != 200:
        raise Unfetchable(f"The image's host answered {response.status}: check the address.")
    refusal = BodyTooLarge(f"The image at this address is larger than {limit:,} bytes: send a smaller one.")
    if (response.length or 0) > limit:
        raise refusal
    content = bytearray()
    while piece := response.read(min(PIECE, limit + 1 - len(content))):
        content += piece
        if len(content) > limit:
            raise refusal
    if response.length:
        raise Unfetchable("The image's host closed the connection before all of it had come: try again.")
    return bytes(content)


def _too_slow() -> Unfetchable:
    return Unfetchable(f"The image's host took over {FETCH_S:g} s: send the file instead.")
