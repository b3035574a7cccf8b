"""Request ids, and the log of a real server process: what a line holds, and what no line ever holds."""

import json
import re
import signal
from base64 import b64encode
from datetime import datetime

import httpx
import pytest

from service.http import access_log
from tests.support.answers import AUTHORIZED, JPEG, KEY
from tests.support.artifacts import PUBLISHED
from tests.support.images import encode
from tests.support.processes import VARIANT, started
from tests.support.samples import FOLDER, SAMPLES

PNG = {"Content-Type": "image/png"}


@pytest.mark.parametrize("given", ["abc-123", "A.b_c:d", "x" * 128])
def test_the_id_of_a_request_is_taken_over(client, given):
    for path, status in (("/healthz", 200), ("/nothing", 404), ("/static/page.js", 200)):
        response = client.get(path, headers={"X-Request-Id": given})
        assert (response.status_code, response.headers.get_list("x-request-id")) == (status, [given])
    response = client.post("/recognize", content=b"x", headers=JPEG | {"X-Request-Id": given})
    assert response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'a"b', "<script>"])
def test_any_other_request_gets_an_id_of_its_own(client, given):
    ids = [client.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert all(re.fullmatch("[0-9a-f]{32}", number) for number in ids)


def test_each_request_is_a_line_of_json_without_image_plate_and_key(capfd):
    file, text = SAMPLES[0]
    image = (FOLDER / file).read_bytes()
    with started(PUBLISHED, VARIANT=VARIANT, API_KEYS=KEY) as server, httpx.Client(base_url=server.url) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            client.get(path)
        key = {**AUTHORIZED, "X-Request-Id": "mine"}
        client.post("/recognize?top_k=1", files=[("image", image), ("image", b"x")], headers=key)
        client.post("/recognize", json={"images": [{"data": b64encode(image).decode()}]}, headers=key)
        client.post("/recognize", content=image, headers=PNG | {"X-API-Key": "a wrong key"})
        client.get("/%0Ax")
        assert server.stop(signal.SIGINT) == 0
    assert not any("Traceback" in line for line in server.said)
    out = capfd.readouterr().out
    first, second, third, fourth = (json.loads(line) for line in out.splitlines())
    assert list(first)[:7] == ["time", "request_id", "client", "method", "path", "status", "ms"]
    assert datetime.fromisoformat(first["time"]).tzinfo
    assert (first["request_id"], first["client"], first["method"]) == ("mine", "127.0.0.1", "POST")
    assert (first["path"], first["status"], first["variant"]) == ("/recognize", 200, VARIANT)
    assert (first["images"], first["plates"], first["unread"]) == (2, 1, 1)
    assert first["ms"] > 0
    assert second["status"] == 200
    assert (third["status"], third["error"]) == (401, "bad_key")
    assert (fourth["status"], fourth["path"]) == (404, "/\nx")
    for secret in (text, KEY, "a wrong key", b64encode(image).decode()[:40]):
        assert secret not in out + "".join(server.said)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"LOG_PLATES": "1"}, {"LOG": "0"}])
def test_the_texts_are_logged_where_that_was_asked_for_and_nothing_where_that_was(settings, capfd):
    file, text = SAMPLES[0]
    with started(PUBLISHED, VARIANT=VARIANT, **settings) as server:
        httpx.post(f"{server.url}/recognize", content=(FOLDER / file).read_bytes(), headers=PNG)
        server.stop(signal.SIGINT)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["texts"] for line in lines] == ([[text]] if "LOG_PLATES" in settings else [])


def test_an_unexpected_error_is_logged_with_its_id(client, tmp_path, monkeypatch):
    """A fault of the server, made by breaking it: what it answers still carries the id."""
    monkeypatch.setattr("service.http.routes.read_images", None)  # to call it is a TypeError
    with (tmp_path / "log").open("wb") as file, access_log.written_to(file.fileno()):
        response = client.post("/recognize", content=encode(), headers=JPEG | {"X-Request-Id": "broken"})
    assert response.status_code == 500
    assert response.headers.get_list("x-request-id") == ["broken"]
    assert response.json()["request_id"] == "broken"
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (line["request_id"], line["status"]) == ("broken", 500)


@pytest.mark.slow
def test_an_address_in_the_log_is_the_one_that_connected_unless_a_proxy_is_trusted(capfd):
    """What a client, or a trusted proxy, sends as an address and is none does not get into the log."""
    cases: dict[str, list[tuple[str, str | None]]] = {
        "": [("203.0.113.9", "127.0.0.1"), ("x" * 9999, "127.0.0.1")],
        "127.0.0.0/8": [
            ("203.0.113.9", "203.0.113.9"),
            ("1.1.1.1, 2001:DB8::1, 127.0.0.7", "2001:db8::1"),
            ("anything at all", None),
            ("x" * 9999, None),
            ("fe80::1%evil", "fe80::1"),
        ],
    }
    for proxies, given in cases.items():
        with started(PUBLISHED, VARIANT=VARIANT, PROXIES=proxies) as server, server.connect() as connection:
            for header, _ in given:
                connection.sendall(f"GET /nothing HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {header}\r\n\r\n".encode())
                assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
            assert server.stop(signal.SIGINT) == 0
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert [line["client"] for line in lines] == [client for _, client in given]


def test_a_path_is_escaped(client, tmp_path):
    with (tmp_path / "log").open("wb") as file, access_log.written_to(file.fileno()):
        client.get("/%1B%5B31m%7F%C2%9B31m%E2%80%AE%0Aend%E7%9A%96")
    out = (tmp_path / "log").read_text(encoding="utf-8")
    assert json.loads(out)["path"] == "/\x1b[31m\x7f\x9b31m\u202e\nend皖"
    assert out.strip().isprintable()
