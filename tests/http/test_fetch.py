"""Images by their address: only from named hosts with public addresses, bounded, and by one answer of the DNS."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from service.errors import BodyTooLarge, InputError, Unfetchable
from service.http import fetch
from service.http.fetch import Fetcher, is_public
from tests.support.answers import problem
from tests.support.artifacts import TINY_TEXT
from tests.support.images import encode

IMAGE = encode()


class Host(BaseHTTPRequestHandler):
    """Answers /image with one, and other paths as their names say."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Host.asked.append(self.path)
        match self.path.split("?")[0]:
            case "/image":
                self._send(200, IMAGE)
            case "/endless":
                self.send_response(200)
                self.end_headers()
                while True:
                    try:
                        self.wfile.write(b"x" * 65536)
                    except OSError:
                        return
            case "/slow":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                for _ in range(100):
                    try:
                        self.wfile.write(b"x")
                        self.wfile.flush()
                    except OSError:
                        return
                    time.sleep(0.05)
            case "/short":
                self._send(200, IMAGE[:-50], len(IMAGE))
            case "/loop":
                self._send(302, b"", to="/loop")
            case "/moved":
                self._send(302, b"", to="/image")
            case "/inside":
                self._send(302, b"", to="http://inside.example/secret")
            case "/file":
                self._send(302, b"", to="file:///etc/passwd")
            case _:
                self._send(404, b"")

    def _send(self, status: int, body: bytes, length: int | None = None, to: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if to:
            self.send_header("Location", to)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A host on the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def public(monkeypatch):
    """The loopback counts as public."""
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")


@contextmanager
def names(monkeypatch: pytest.MonkeyPatch, **addresses: list[str]) -> Iterator[list[str]]:
    """Hosts `name.example` with these addresses, the next one at each question; yields the questions."""
    asked: list[str] = []
    known = socket.getaddrinfo

    def resolve(host: str, port: int, *rest: object, **more: object) -> list:
        name = str(host).removesuffix(".example")
        if name not in addresses:
            return known(host, port, *rest, **more)
        asked.append(str(host))
        answers = addresses[name]
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in address.split()]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield asked


def get(url: str, port: int, limit: int = 1_000_000) -> bytes:
    hosts = [f"images.example:{port}", f"127.0.0.1:{port}", "images.example"]
    return asyncio.run(Fetcher(hosts, limit).get(url, limit))


def refusal(url: str, port: int, **options: int) -> str:
    with pytest.raises(InputError) as raised:
        get(url, port, **options)
    return str(raised.value)


@pytest.mark.parametrize("path", ["image", "image?at=1", "moved"])
def test_an_image_is_fetched(monkeypatch, port, public, path):
    with names(monkeypatch, images=["127.0.0.1"]):
        assert get(f"http://images.example:{port}/{path}", port) == IMAGE


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch, port, public):
    """The second answer of the DNS is another address: it is not even asked for."""
    with names(monkeypatch, images=["127.0.0.1", "10.0.0.1"]) as asked:
        assert get(f"http://images.example:{port}/image", port) == IMAGE
    assert asked == ["images.example"]


@pytest.mark.parametrize("addresses", ["127.0.0.1", "10.0.0.7", "93.184.216.34 192.168.1.1", "169.254.169.254"])
def test_a_host_with_a_private_address_is_refused(monkeypatch, port, addresses):
    Host.asked.clear()
    with names(monkeypatch, images=[addresses]):
        assert "private network" in refusal(f"http://images.example:{port}/image", port)
    assert Host.asked == []


def test_a_redirect_is_checked_as_the_first_address_is(monkeypatch, port, public):
    with names(monkeypatch, images=["127.0.0.1"], inside=["10.0.0.1"]):
        assert "LPR_FETCH" in refusal(f"http://images.example:{port}/inside", port)
        assert "http or https" in refusal(f"http://images.example:{port}/file", port)
        assert "redirects more than" in refusal(f"http://images.example:{port}/loop", port)
    with names(monkeypatch, images=["127.0.0.1", "10.0.0.1"]):  # private by the time of the redirect
        assert "private network" in refusal(f"http://images.example:{port}/moved", port)


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/",
        "http://images.example:1/",
        "http://images.example.other.example/",
        "https://127.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
    ],
)
def test_a_host_that_is_not_named_is_refused(port, url):
    assert "LPR_FETCH" in refusal(url, port)


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://images.example/", "images.example/a", "http:///a", "//images.example/"),
        *("http://images.example@127.0.0.1/", "http://images.example\\@127.0.0.1/", "http://images.example:x/"),
        *("http://images.example/\r\nHost: x", "http://images.example/ä", f"http://images.example/{'x' * 3000}", ""),
    ],
)
def test_what_is_no_address_of_http_is_refused(port, url):
    assert "http or https" in refusal(url, port)


def test_bytes_are_bounded(port, public):
    with pytest.raises(BodyTooLarge):
        get(f"http://127.0.0.1:{port}/image", port, limit=100)
    with pytest.raises(BodyTooLarge):
        get(f"http://127.0.0.1:{port}/endless", port)


def test_seconds_are_bounded_also_where_bytes_trickle(monkeypatch, port, public):
    monkeypatch.setattr(fetch, "FETCH_S", 0.3)
    start = time.monotonic()
    with pytest.raises(Unfetchable, match=r"took over 0.3 s|did not answer|closed the connection"):
        get(f"http://127.0.0.1:{port}/slow", port)
    assert time.monotonic() - start < 3


def test_what_goes_wrong_there_is_told(monkeypatch, port, public):
    assert "answered 404" in refusal(f"http://127.0.0.1:{port}/none", port)
    assert "closed the connection" in refusal(f"http://127.0.0.1:{port}/short", port)
    with names(monkeypatch, images=["127.0.0.1"]), socket.create_server(("127.0.0.1", 0)) as closed:
        number = closed.getsockname()[1]
        closed.close()
        assert "did not answer" in refusal(f"http://images.example:{number}/", number)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "fe80::1%eth0"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "64:ff9b::a00:1"),
    ],
)
def test_other_addresses(address):
    assert not is_public(address)


def test_a_request_names_an_image_by_its_address(serving, port, public):
    server = serving(fetch=f"127.0.0.1:{port}", compatible="plate-recognizer")
    images = {"images": [{"url": f"http://127.0.0.1:{port}/image", "filename": "a"}, {"url": "http://x.example/"}]}
    first, second = server.post("/recognize", json=images).json()["results"]
    assert (first["filename"], first["plates"][0]["text"]) == ("a", TINY_TEXT)
    assert second["error"]["type"] == "urn:lpr:unfetchable"
    answer = server.post("/v1/plate-reader/", data={"upload_url": f"http://127.0.0.1:{port}/image"})
    assert (answer.status_code, answer.json()["results"][0]["plate"]) == (201, TINY_TEXT.lower())


def test_what_is_fetched_counts_as_bytes_that_the_server_holds(serving, port, public):
    size = len(IMAGE)
    server = serving(fetch=f"127.0.0.1:{port}", max_bytes=size + 200, queue_bytes=size + 200)
    url = f"http://127.0.0.1:{port}/image"
    assert server.post("/recognize", json={"images": [{"url": url}]}).status_code == 200
    both = server.post("/recognize", json={"images": [{"url": url}, {"url": url}]})
    assert both.json()["results"][1]["error"]["type"] == "urn:lpr:body_too_large"
    padded = {"images": [{"url": url, "filename": "x" * 190}]}
    assert server.post("/recognize", json=padded).status_code == 429


def test_it_is_off_by_default(client):
    response = client.post("/recognize", json={"images": [{"url": "http://127.0.0.1/"}]})
    assert "LPR_FETCH" in problem(response, 422, Unfetchable)
