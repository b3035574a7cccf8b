"""Request ids, and the log of a real server process: what a line holds, and what no line ever holds."""

import json
import os
import re
import signal
import threading
from base64 import b64encode
from datetime import datetime

import httpx
import pytest
from conftest import PUBLISHED, encode
from test_samples import FOLDER, SAMPLES
from test_server import started

from service import access

KEY = "a key of 20 letters."
JPEG, PNG = ({"Content-Type": f"image/{kind}"} for kind in ("jpeg", "png"))


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
    with started(PUBLISHED, BACKEND="tvm", API_KEYS=KEY) as server, httpx.Client(base_url=server.url) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            client.get(path)
        key = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine"}
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
    assert (first["path"], first["status"], first["variant"]) == ("/recognize", 200, "tvm")
    assert (first["images"], first["plates"], first["unread"]) == (2, 1, 1)
    assert first["ms"] > 0
    assert second["status"] == 200
    assert (third["status"], third["error"]) == (401, "bad_key")
    assert (fourth["status"], fourth["path"]) == (404, "/\nx")
    for secret in (text, KEY, "a wrong key", b64encode(image).decode()[:40]):
        assert secret not in out + "".join(server.said)


@pytest.mark.parametrize("settings", [{"LOG_PLATES": "1"}, {"LOG": "0"}])
def test_the_texts_are_logged_where_that_was_asked_for_and_nothing_where_that_was(settings, capfd):
    file, text = SAMPLES[0]
    with started(PUBLISHED, BACKEND="tvm", **settings) as server:
        httpx.post(f"{server.url}/recognize", content=(FOLDER / file).read_bytes(), headers=PNG)
        server.stop(signal.SIGINT)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["texts"] for line in lines] == ([[text]] if "LOG_PLATES" in settings else [])


def test_an_unexpected_error_is_logged_with_its_id(client, tmp_path, monkeypatch):
    """A fault of the server, made by breaking it: what it answers still carries the id."""
    monkeypatch.setattr("service.api.read_images", None)  # to call it is a TypeError
    with (tmp_path / "log").open("wb") as file, access.written_to(file.fileno()):
        response = client.post("/recognize", content=encode(), headers=JPEG | {"X-Request-Id": "broken"})
    assert response.status_code == 500
    assert response.headers.get_list("x-request-id") == ["broken"]
    assert response.json()["request_id"] == "broken"
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (line["request_id"], line["status"]) == ("broken", 500)


def test_a_log_that_nobody_reads_delays_nothing_and_then_has_its_oldest_lines(monkeypatch):
    """More lines than a pipe and the backlog hold together."""
    monkeypatch.setattr(access, "LAST_S", 60)  # it ends as soon as all is read
    read, write = os.pipe()
    with access.written_to(write) as log:
        for number in range(3 * access.BACKLOG):
            log.put(b"line %d" % number)
        taken: list[str] = []
        reader = threading.Thread(target=lambda: taken.extend(open(read)))  # noqa: SIM115
        reader.start()
    os.close(write)
    reader.join()
    assert access.BACKLOG <= len(taken) < 3 * access.BACKLOG
    assert taken[:2] == ["line 0\n", "line 1\n"]


def test_a_log_that_cannot_be_written_fails_nothing():
    with open("/dev/full", "wb", buffering=0) as full, access.written_to(full.fileno()) as log:
        log.put(b"x")
    read, write = os.pipe()
    os.close(read)
    with access.written_to(write) as log:
        log.put(b"x")
    os.close(write)


def test_a_reader_that_is_stuck_does_not_keep_the_process_from_ending(monkeypatch):
    monkeypatch.setattr(access, "LAST_S", 0.01)
    read, write = os.pipe()
    with access.written_to(write) as log:
        for _ in range(3 * access.BACKLOG):
            log.put(b"x" * 99)
    os.close(read)  # which frees its thread; the other end stays open, because that may still write to it
