"""Images by their address: only from named hosts with public addresses, bounded, and by one answer of the DNS."""

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote, urlsplit

import pytest

from service import internet
from service.errors import BodyTooLarge, Busy, ClientGone, InputError, Unfetchable
from service.http import fetch
from service.http.fetch import Fetcher, Room
from service.internet import is_public
from service.reading.containers import Encoded
from tests.support.answers import problem
from tests.support.artifacts import TINY_TEXT
from tests.support.images import encode
from tests.support.processes import HEAD, Process, environment, program
from tests.support.servers import eventually

IMAGE = encode()
OK = b"HTTP/1.1 200 OK\r\n"


class Host(BaseHTTPRequestHandler):
    """Answers /image with one, and other paths as their names say."""

    asked: ClassVar[list[str]] = []
    waiting: ClassVar[list[str]] = []  # the queries of /wait that are not answered
    together: ClassVar = threading.Barrier(3)

    def do_GET(self) -> None:
        query = unquote(urlsplit(self.path).query)
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
            case "/wait":  # for the end of the connection
                Host.waiting.append(query)
                self.connection.settimeout(60)
                assert self.connection.recv(1) == b""
                Host.waiting.remove(query)
            case "/together":
                Host.together.wait(timeout=20)
                self._send(200, IMAGE)
            case "/raw":
                self.wfile.write(RAW[query])
            case "/to":
                self._send(302, b"", to=query)
            case "/nowhere":
                self._send(302, b"")
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


LARGE = b"x" * 100_000
RAW = {
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(IMAGE), IMAGE),
    "no length": OK + b"\r\n" + IMAGE,
    "to follow": b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" + OK + b"\r\n" + IMAGE,
    "more": OK + b"Content-Length: %d\r\nConnection: close\r\n\r\n%brubbish" % (len(IMAGE), IMAGE),
    "another": OK + b"Content-Length: %d\r\n\r\n%b" % (len(IMAGE), IMAGE) + OK + b"Content-Length: 1\r\n\r\nx",
    "cut off": OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\nxxx",
    "half a head": OK,
    "nothing": b"",
    "rubbish": b"SSH-2.0-OpenSSH\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "negative": OK + b"Content-Length: -1\r\n\r\n",
    "head": OK + b"X: " + LARGE,
    "heads": b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
    "trailer": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + LARGE,
    "crumbs": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000,
}


@contextmanager
def serving_images(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A host on the loopback; yields its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving_images() as port:
        yield port


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The same with TLS: its port, and the certificate of images.example."""
    folder = tmp_path_factory.mktemp("tls")
    made = [
        program("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "key",
        "-out",
        "certificate",
    ]
    named = ["-subj", "/CN=images.example", "-addext", "subjectAltName=DNS:images.example"]
    subprocess.run([*made, *named], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    with serving_images(context) as port:
        yield port, folder / "certificate"


@pytest.fixture
def public(monkeypatch):
    """The loopback counts as public."""
    monkeypatch.setattr(internet, "is_public", lambda address: address in ("127.0.0.1", "127.0.0.2"))


@pytest.fixture
def patient(monkeypatch):
    """Nothing that ends soon does so because its time is up."""
    monkeypatch.setattr(fetch, "FETCH_S", 600.0)


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


def room(most: int = 1_000_000) -> Room:
    return Room(most, lambda count: None)


def get(url: str, port: int, limit: int = 1_000_000) -> Encoded:
    hosts = [f"images.example:{port}", f"127.0.0.1:{port}", "images.example"]
    return asyncio.run(Fetcher(hosts, limit).get(url, room(limit)))


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


@pytest.mark.parametrize("path", ["chunks", "no length", "to follow", "more", "another"])
def test_an_image_comes_as_hosts_send_it(port, public, path):
    assert get(f"http://127.0.0.1:{port}/raw?{quote(path)}", port) == IMAGE


@pytest.mark.parametrize(
    ("path", "told"),
    [
        *((name, "closed the connection") for name in ("cut off", "half a head", "nothing")),
        *((name, "no answer of HTTP") for name in ("rubbish", "another protocol", "negative")),
        *((name, "over 65,536 bytes of head") for name in ("head", "heads", "trailer", "crumbs")),
    ],
)
def test_what_is_no_answer_of_http_is_refused(port, public, path, told):
    assert told in refusal(f"http://127.0.0.1:{port}/raw?{quote(path)}", port)


def test_each_address_of_a_host_is_tried(monkeypatch, port, public):
    with names(monkeypatch, images=["127.0.0.2 127.0.0.1"]) as asked:
        assert get(f"http://images.example:{port}/image", port) == IMAGE
    assert asked == ["images.example"]


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch, port, public):
    connect = asyncio.open_connection

    async def connect_or_wait(address: str, *rest: object, **more: object):
        return await (asyncio.Event().wait() if address == "127.0.0.2" else connect(address, *rest, **more))

    monkeypatch.setattr(asyncio, "open_connection", connect_or_wait)
    monkeypatch.setattr(fetch, "FETCH_S", 2.0)
    with names(monkeypatch, images=["127.0.0.2 127.0.0.1"]):
        assert get(f"http://images.example:{port}/image", port) == IMAGE


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


def test_a_redirect_without_an_address_is_no_redirect(port, public):
    assert "answered 302" in refusal(f"http://127.0.0.1:{port}/nowhere", port)


MALFORMED = [
    *("http://[::1", "http://[x]/", "//[", "http://images.example:x/", "http://images.example:99999/", "http://:80/"),
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_redirect_to_what_is_no_address_is_refused(port, public, url):
    assert "http or https" in refusal(f"http://127.0.0.1:{port}/to?{quote(url)}", port)


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_no_address_spoils_no_other_image(serving, port, public, url):
    server = serving(fetch=f"127.0.0.1:{port}", compatible="plate-recognizer")
    redirected = f"http://127.0.0.1:{port}/to?{quote(url)}"
    images = {"images": [{"url": url} for url in (f"http://127.0.0.1:{port}/image", redirected, url)]}
    good, *bad = server.post("/recognize", json=images).json()["results"]
    assert good["plates"][0]["text"] == TINY_TEXT
    assert [one["error"]["type"] for one in bad] == ["urn:lpr:unfetchable"] * 2
    for address in (redirected, url):
        answer = server.post("/v1/plate-reader/", data={"upload_url": address})
        assert (answer.status_code, answer.json()["status_code"]) == (400, 400)


@pytest.mark.parametrize("scheme", ["http", "HTTP", "Http"])
def test_https_is_not_left(monkeypatch, tls, port, public, scheme):
    port_of_tls, certificate = tls
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    address = f"https://images.example:{port_of_tls}"
    with names(monkeypatch, images=["127.0.0.1"]):
        assert get(f"{address}/image", port_of_tls) == IMAGE
        assert get(f"{address}/to?{quote(f'HTTPS://images.example:{port_of_tls}/image')}", port_of_tls) == IMAGE
        to = quote(f"{scheme}://127.0.0.1:{port}/image")
        assert "from https to http" in refusal(f"{address}/to?{to}", port_of_tls)


def test_a_certificate_must_be_of_the_host_that_is_named(monkeypatch, tls, public):
    port, certificate = tls
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(f"https://127.0.0.1:{port}/image", port)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(f"https://127.0.0.1:{port}/image", port)


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
        *(
            "http://images.example/\r\nHost: x",
            "http://images.example/ä",
            "http://[::1",
            f"http://images.example/{'x' * 3000}",
            "",
        ),
    ],
)
def test_what_is_no_address_of_http_is_refused(port, url):
    assert "http or https" in refusal(url, port)


def test_bytes_are_bounded(port, public):
    with pytest.raises(BodyTooLarge):
        get(f"http://127.0.0.1:{port}/image", port, limit=100)
    with pytest.raises(BodyTooLarge):
        get(f"http://127.0.0.1:{port}/endless", port)


def test_the_bytes_of_what_is_refused_are_given_back():
    held = 0

    def hold(count: int) -> None:
        nonlocal held
        held += count
        if held > 150:
            raise Busy

    shared = fetch.Room(100, hold)
    with shared.share() as take:
        take(40)
    with pytest.raises(BodyTooLarge), shared.share() as take:
        any(take(30) for _ in range(10))
    assert held == 40
    held = 140  # by others
    with pytest.raises(Busy), shared.share() as take:
        take(20)
    assert held == 140
    with shared.share() as take:
        take(10)


def test_seconds_are_bounded_also_where_bytes_trickle(monkeypatch, port, public):
    monkeypatch.setattr(fetch, "FETCH_S", 0.3)
    start = time.monotonic()
    with pytest.raises(Unfetchable, match=r"did not come within 0.3 s"):
        get(f"http://127.0.0.1:{port}/slow", port)
    assert time.monotonic() - start < 3


def test_what_goes_wrong_there_is_told(monkeypatch, port, public):
    assert "answered 404" in refusal(f"http://127.0.0.1:{port}/none", port)
    assert "closed the connection" in refusal(f"http://127.0.0.1:{port}/short", port)
    with names(monkeypatch, images=["127.0.0.1"]), socket.create_server(("127.0.0.1", 0)) as closed:
        number = closed.getsockname()[1]
        closed.close()
        assert "did not answer" in refusal(f"http://images.example:{number}/", number)


def waiting(url: str) -> None:
    """Wait until a host has been asked for /wait?URL."""
    eventually(lambda: url in Host.waiting)


def test_a_slow_host_delays_no_other_one(monkeypatch, port, public, patient):
    async def ask() -> None:
        fetcher = Fetcher([f"images.example:{port}", f"127.0.0.1:{port}"], 1_000_000)
        urls = [f"http://images.example:{port}/wait?many" for _ in range(100)]
        slow = asyncio.gather(*(fetcher.get(url, room()) for url in urls))
        await asyncio.to_thread(eventually, lambda: Host.waiting.count("many") == fetch.AT_ONCE)
        assert await fetcher.get(f"http://127.0.0.1:{port}/image", room()) == IMAGE
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    with names(monkeypatch, images=["127.0.0.1"]):
        asyncio.run(ask())
    eventually(lambda: "many" not in Host.waiting)


def test_a_dns_that_does_not_answer_delays_no_other_host_and_no_end(monkeypatch, port, public, patient):
    asked, answer, known = [], threading.Event(), socket.getaddrinfo

    def resolve(host: str, *rest: object, **more: object) -> list:
        if host != "images.example":
            return known(host, *rest, **more)
        asked.append(threading.current_thread())
        answer.wait()
        return []

    async def ask() -> None:
        fetcher = Fetcher([f"images.example:{port}", f"127.0.0.1:{port}"], 1_000_000)
        slow = asyncio.gather(*(fetcher.get(f"http://images.example:{port}/image", room()) for _ in range(100)))
        await asyncio.to_thread(eventually, lambda: len(asked) > 0)
        assert await fetcher.get(f"http://127.0.0.1:{port}/image", room()) == IMAGE
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    asyncio.run(ask())
    assert [thread.daemon for thread in asked] == [True]
    answer.set()
    asked[0].join()


def test_the_images_of_a_request_are_fetched_together(serving, port, public, patient):
    server = serving(fetch=f"127.0.0.1:{port}")
    images = {"images": [{"url": f"http://127.0.0.1:{port}/together"}] * 3}
    results = server.post("/recognize", json=images).json()["results"]
    assert [result["plates"][0]["text"] for result in results] == [TINY_TEXT] * 3


@pytest.mark.parametrize("path", ["/recognize", "/redact", "/v1/plate-reader/"])
def test_nothing_is_fetched_for_a_client_that_has_left(serving, port, public, patient, path):
    server = serving(fetch=f"127.0.0.1:{port}", compatible="plate-recognizer")
    url = f"http://127.0.0.1:{port}/wait?{quote(path)}"
    body = f'{{"upload_url": "{url}"}}' if "reader" in path else f'{{"images": [{{"url": "{url}"}}]}}'
    head = f"POST {path} HTTP/1.1\r\nHost: lpr\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.base_url.port)) as connection:
        connection.sendall((head + body).encode())
        waiting(path)
    eventually(lambda: path not in Host.waiting)
    cause = f'cause="{ClientGone.slug}"'
    counted = [
        line for line in server.get("/metrics").text.splitlines() if cause in line and "lpr_errors_total" in line
    ]
    assert any(not line.endswith(" 0.0") for line in counted)


PATIENT = """
import socket, sys, time
from service.__main__ import main
from service import internet
from service.http import fetch
known = socket.getaddrinfo
def resolve(host, *rest, **more):
    if host == "dns.example":
        print("asked", file=sys.stderr, flush=True)
        time.sleep(600)
    return known(host, *rest, **more)
fetch.FETCH_S, internet.is_public, socket.getaddrinfo = 600, lambda address: True, resolve
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "dns.example"])
def test_the_end_does_not_wait_for_a_host(artifacts, port, host):
    settings = environment(artifacts, NOTICE_S="0", DRAIN_S="2", FETCH=f"{host}:{port}")
    server = Process(settings, [sys.executable, "-c", PATIENT])
    try:
        with server.connect() as connection:
            body = f'{{"images": [{{"url": "http://{host}:{port}/wait?end"}}]}}'.encode()
            connection.sendall(HEAD.replace(b"image/jpeg", b"application/json") % len(body) + body)
            eventually(lambda: "end" in Host.waiting or any("asked" in line for line in server.said))
            assert server.stop() == 0
            assert connection.recv(65_536).startswith(b"HTTP/1.1 503 ")
    finally:
        server.process.kill()
        server.process.wait()
    eventually(lambda: "end" not in Host.waiting)
    assert not any("Traceback" in line for line in server.said)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822", "2001:200::1"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "fe80::1%eth0"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "64:ff9b::a00:1"),
        *("192.0.0.192", "192.0.0.9", "192.88.99.1", "64:ff9b::c000:c0", "64:ff9b:1::5db8:d822", "100::1", "5f00::1"),
        *("fec0::1", "3fff::1", "3fff:fff::1", "2001::1", "2001:db8::1", "2002:5db8:d822::1", "4000::1", "::5db8:d822"),
        *("2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:10.0.0.1"),
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
    errors = [result["error"]["type"] for result in both.json()["results"] if result["error"]]
    assert errors == ["urn:lpr:body_too_large"]
    padded = {"images": [{"url": url, "filename": "x" * 190}]}
    assert server.post("/recognize", json=padded).status_code == 429


def test_it_is_off_by_default(client):
    response = client.post("/recognize", json={"images": [{"url": "http://127.0.0.1/"}]})
    assert "LPR_FETCH" in problem(response, 422, Unfetchable)
