"""Fetching of images by their address, from hosts that LPR_FETCH names; everything else is refused.

What a client names decides where this server connects, so nothing of it is trusted: the host must be named by the
operator, all its addresses must be public, the connection goes to the very addresses that were checked (a second answer
of the DNS changes nothing), a redirect is checked as the first address was, and bytes and seconds are bounded.

All of it happens on the event loop, where a cancelled task closes its connection at once: that of a client who has
left, or of a server that stops. Only the DNS is asked on threads, because a question to it cannot be cancelled.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import httptools
from starlette.requests import Request

from service import internet
from service.errors import BodyTooLarge, Busy, ClientGone, InputError, Unfetchable, brief
from service.http.uploads import Upload, gone
from service.reading.containers import Encoded

PORTS: Final = {"http": 80, "https": 443}
MOST_REDIRECTS: Final = 3
FETCH_S: Final = 10.0  # seconds for an image, its redirects and its turn included
LONGEST: Final = 2000  # characters of an address
AT_ONCE: Final = 8  # images that are fetched from a host at a time
PIECE: Final = 64 * 1024  # bytes
HEAD_BYTES: Final = 64 * 1024  # of an answer, besides its content
REDIRECTS: Final = (301, 302, 303, 307, 308)
HEADERS: Final = {"User-Agent": "lpr", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}


class Address(NamedTuple):
    """A well-formed address of http or https."""

    url: str
    scheme: str
    host: str  # in lower case; an IPv6 address has brackets
    port: int
    path: str  # with the query


class Room:
    """Room for the bytes that are fetched for a request: bounded as its body is, and told to `hold` as they come."""

    def __init__(self, most: int, hold: Callable[[int], None]) -> None:
        """At most `most` bytes; `hold` raises Busy where the server holds too many for all requests together."""
        self._most, self._hold = most, hold
        self._taken = 0

    def check(self, count: int) -> None:
        """Raise BodyTooLarge where there is no room for so many bytes."""
        if self._taken + count > self._most:
            raise BodyTooLarge(
                f"The images at the addresses of a request have over {self._most:,} bytes: name fewer or smaller ones."
            )

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """The share of an image. Call what it yields to take bytes; they are given back where the image is refused."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            self.check(count)
            self._taken += count
            taken += count
            self._hold(count)

        try:
            yield take
        except BaseException:
            self._taken -= taken
            with suppress(Busy):  # others hold too many nevertheless, and are told so themselves
                self._hold(-taken)
            raise


class Fetcher:
    """Fetches images from a list of hosts. Its methods belong to the event loop."""

    def __init__(self, hosts: Iterable[str], max_bytes: int) -> None:
        """`hosts` are names, or names with a port; without one, the ports of http and https are meant."""
        self.max_bytes = max_bytes
        self._turns = {host: asyncio.Semaphore(AT_ONCE) for host in hosts}  # a slow host delays nobody else
        self._questions: dict[tuple[str, int], asyncio.Future[list[str]]] = {}  # to the DNS, while it answers
        self._tls = ssl.create_default_context()

    async def get(self, url: str, room: Room) -> Encoded:
        """The bytes at an address; raises Unfetchable, BodyTooLarge or Busy."""
        until = asyncio.get_running_loop().time() + FETCH_S
        try:
            async with asyncio.timeout_at(until):
                return await self._get(url, room, until)
        except TimeoutError as error:
            raise Unfetchable(f"The image did not come within {FETCH_S:g} s: send the file instead.") from error

    async def _get(self, url: str, room: Room, until: float) -> Encoded:
        address = parse(url)
        for _ in range(1 + MOST_REDIRECTS):
            async with self._turns[self._named(address)]:
                answer = await self._ask(address, room, until)
            if not isinstance(answer, str):
                return answer
            address = parse(answer, address)
        raise Unfetchable(f"The image's host redirects more than {MOST_REDIRECTS} times: name the address itself.")

    def _named(self, address: Address) -> str:
        """The entry of LPR_FETCH that allows an address; raises Unfetchable where none does."""
        names = [f"{address.host}:{address.port}"]
        if address.port == PORTS[address.scheme]:
            names.append(address.host)
        for name in names:
            if name in self._turns:
                return name
        raise Unfetchable("Images are fetched only from the hosts that LPR_FETCH names: send the file instead.")

    async def _ask(self, address: Address, room: Room, until: float) -> Encoded | str:
        """The content at an address, or the one that it redirects to; raises Unfetchable, BodyTooLarge or Busy."""
        try:
            reader, writer = await self._connect(address, until)
            try:
                writer.write(_request(address))
                return await _received(reader, room)
            finally:
                writer.transport.abort()
        except OSError as error:
            reason = brief(error) or type(error).__name__
            raise Unfetchable(f"The image's host did not answer ({reason}): try again.") from error

    async def _connect(self, address: Address, until: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first address of a host that takes one; each has an equal part of the time that is left.

        Raises OSError or Unfetchable.
        """
        host, loop = address.host.strip("[]"), asyncio.get_running_loop()
        tls, name = (self._tls, host) if address.scheme == "https" else (None, None)
        failure: OSError | None = None
        for left in range(len(found := await self._resolve(host, address.port)), 0, -1):
            try:
                async with asyncio.timeout((until - loop.time()) / left):
                    return await asyncio.open_connection(found[-left], address.port, ssl=tls, server_hostname=name)
            except OSError as error:  # TimeoutError is one
                failure = error
        assert failure
        raise failure

    async def _resolve(self, host: str, port: int) -> list[str]:
        """The IP addresses of a host, at least one and all public; raises Unfetchable.

        A host is asked for once at a time, so that a DNS that does not answer keeps no more threads than hosts.
        """
        if not (question := self._questions.get((host, port))):
            question = self._questions[host, port] = asyncio.get_running_loop().create_future()
            question.add_done_callback(lambda _: self._questions.pop((host, port)))
            threading.Thread(target=_look_up, args=(host, port, question), name="fetch", daemon=True).start()
        addresses = await asyncio.shield(question)
        if not addresses:
            raise Unfetchable("The image's host has no address: check the name.")
        if not all(internet.is_public(address) for address in addresses):
            raise Unfetchable("The image's host has an address in a private network: send the file instead.")
        return addresses


async def fetched(request: Request, uploads: Sequence[Upload], fetcher: Fetcher | None) -> list[Upload]:
    """The images of a request, those that it names by their address fetched, all at the same time; an error of one is
    its content.

    All that is fetched for a request is bounded as its body is, and counts as bytes that the server holds. Raises Busy
    where it holds too many, ClientGone where the client leaves meanwhile.
    """
    urls = [upload.url for upload in uploads if upload.url is not None]
    if not urls:
        return list(uploads)
    contents = iter(await _contents(request, urls, fetcher))
    return [upload if upload.url is None else replace(upload, content=next(contents), url=None) for upload in uploads]


async def _contents(request: Request, urls: Sequence[str], fetcher: Fetcher | None) -> list[Encoded | InputError]:
    if fetcher is None:
        refusal = Unfetchable("This server fetches no images by their address: send the file; LPR_FETCH names hosts.")
        return [refusal] * len(urls)
    room = Room(fetcher.max_bytes, request.state.hold)
    try:
        async with asyncio.TaskGroup() as group:  # the first error ends all
            watch = group.create_task(_watch(request))
            tasks = [group.create_task(_content(url, fetcher, room)) for url in urls]
            await asyncio.wait(tasks)
            watch.cancel()
    except ExceptionGroup as group_of_errors:
        raise group_of_errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _watch(request: Request) -> None:
    await gone(request)
    raise ClientGone("The connection closed before the images were fetched.")


async def _content(url: str, fetcher: Fetcher, room: Room) -> Encoded | InputError:
    try:
        return await fetcher.get(url, room)
    except InputError as error:
        return error


def parse(url: str, base: Address | None = None) -> Address:
    """An address as a client, or a host that redirects from `base`, names it; raises Unfetchable.

    Nothing else takes addresses apart, so that no fault in one is met elsewhere.
    """
    try:
        if len(url) > LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise ValueError
        whole = urljoin(base.url, url) if base else url
        parts = urlsplit(whole)
        if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc or parts.port == 0:
            raise ValueError
        host = f"[{ip_address(parts.hostname)}]" if ":" in parts.hostname else parts.hostname
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        address = Address(whole, parts.scheme, host, parts.port or PORTS[parts.scheme], path)
    except ValueError as error:
        raise Unfetchable(
            f"The image's address is not one of http or https, of at most {LONGEST:,} characters of ASCII."
        ) from error
    if base and base.scheme == "https" and address.scheme == "http":
        raise Unfetchable("The image's host redirects from https to http: name the address itself.")
    return address


def _look_up(host: str, port: int, question: asyncio.Future[list[str]]) -> None:
    """Answer with the IP addresses of a host, none if it has none. On a thread: a daemon, for which no end waits."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        found = []
    addresses = [str(address[0]) for *_, address in found]
    with suppress(RuntimeError):  # the event loop has ended meanwhile
        question.get_loop().call_soon_threadsafe(question.set_result, addresses)


def _request(address: Address) -> bytes:
    host = address.host if address.port == PORTS[address.scheme] else f"{address.host}:{address.port}"
    lines = [f"{name}: {value}\r\n" for name, value in ({"Host": host} | HEADERS).items()]
    return f"GET {address.path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("ascii")


async def _received(reader: asyncio.StreamReader, room: Room) -> Encoded | str:
    """The content of an answer, or where it redirects to; raises OSError, Unfetchable, BodyTooLarge or Busy."""
    answer = _Answer()
    with room.share() as take:
        while not answer.whole and (data := await reader.read(PIECE)):
            had = len(answer.content)
            answer.feed(data)
            if answer.status in REDIRECTS and (location := answer.headers.get(b"location")):
                return location.decode("latin-1")
            if answer.status not in (0, 200):
                raise Unfetchable(f"The image's host answered {answer.status}: check the address.")
            if answer.status and (length := answer.headers.get(b"content-length")):
                room.check(int(length) - had)
            take(len(answer.content) - had)
        if not (answer.whole or answer.ends_with_connection):
            raise Unfetchable("The image's host closed the connection before all of it had come: try again.")
    return answer.content


class _Answer:
    """An answer of HTTP while it arrives; the parser calls the methods whose names begin with `on`."""

    def __init__(self) -> None:
        self.status = 0  # until the head is there
        self.headers: dict[bytes, bytes] = {}  # their names in lower case
        self.content = bytearray()
        self.whole = False
        self._bytes = 0
        self._parser = httptools.HttpResponseParser(self)

    @property
    def ends_with_connection(self) -> bool:
        """Whether the head tells of no other end."""
        return self.status != 0 and not self.headers.keys() & {b"content-length", b"transfer-encoding"}

    def feed(self, data: bytes) -> None:
        """Take what has arrived; raises Unfetchable."""
        self._bytes += len(data)
        fault: object = f"over {HEAD_BYTES:,} bytes of head"
        try:
            self._parser.feed_data(data)
            if self._bytes - 2 * len(self.content) <= HEAD_BYTES:  # chunks may have as much framing as content
                return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.whole:  # what follows the answer does not matter
                return
            fault = error
        raise Unfetchable(f"The image's host sent no answer of HTTP ({brief(fault)}): check the address.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status == 0:  # trailers are not read
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self.status == 0 and (status := self._parser.get_status_code()) >= 200:
            self.status = status
        elif self.status == 0:  # one that says that the answer follows
            self.headers.clear()

    def on_body(self, body: bytes) -> None:
        if not self.whole:
            self.content += body

    def on_message_complete(self) -> None:
        self.whole = self.status != 0
