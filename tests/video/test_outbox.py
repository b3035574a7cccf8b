"""Events on their way: nothing accepted is lost, whoever is killed."""

import hmac
import http.client
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from service.errors import BadParameter
from service.settings import REPOSITORY
from service.video import outbox as outboxes
from service.video import receivers
from service.video.outbox import NotTaken, Outbox
from service.video.receivers import SIGNATURE, JsonLines, Webhook, signature, verified

ACCEPTS = """
import sys
from pathlib import Path
from service.video.outbox import Outbox
from service.video.receivers import Webhook
outbox = Outbox(Path(sys.argv[1]), {"webhook": Webhook(sys.argv[2], b"secret")}, first_s=0.1)
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    outbox.accept('{"id": "%d"}' % number)
    print(number, flush=True)
sys.stdin.read()
"""


class Taking:
    """A receiver that takes what `answers` lets it."""

    def __init__(self, answers=lambda body: None) -> None:
        self.taken: list[str] = []
        self._answers = answers

    def send(self, body: str) -> None:
        if error := self._answers(body):
            raise error
        self.taken.append(body)

    def close(self) -> None:
        pass


class Hook:
    """A webhook's server on a port that stays the same over restarts."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []
        self.status = status
        self.port = 0
        self.start()

    def start(self) -> None:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.bodies.append(body)
                    hook.signatures.append(self.headers.get(SIGNATURE, ""))
                self.send_response(hook.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/plates"

    @property
    def numbers(self) -> list[int]:
        return [int(json.loads(body)["id"]) for body in self.bodies]


@pytest.fixture
def hook():
    made = Hook()
    yield made
    made.stop()


def until(condition, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(met)


def accepting(file: Path, address: str, first: int, last: int) -> subprocess.Popen:
    command = [sys.executable, "-c", ACCEPTS, str(file), address, str(first), str(last)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def said(process: subprocess.Popen, count: int) -> list[int]:
    return [int(process.stdout.readline()) for _ in range(count)]


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_nothing_is_lost_where_both_sides_are_killed(tmp_path, hook):
    file = tmp_path / "queue.sqlite"
    process = accepting(file, hook.address, 0, 5)
    said(process, 5)
    assert until(lambda: len(set(hook.numbers)) == 5)
    hook.stop()
    kill(process)
    process = accepting(file, hook.address, 5, 10)  # while the webhook is away
    said(process, 5)
    kill(process)
    hook.start()
    process = accepting(file, hook.address, 10, 12)
    said(process, 2)
    assert until(lambda: len(set(hook.numbers)) == 12)
    kill(process)
    in_order = list(dict.fromkeys(hook.numbers))
    assert in_order == list(range(12))


def test_events_are_tried_again_until_they_are_taken(tmp_path, hook, capfd):
    hook.status = 503
    outbox = Outbox(tmp_path / "queue", {"webhook": Webhook(hook.address, None)}, first_s=0.01)
    outbox.accept('{"id": "1"}')
    assert until(lambda: "answered 503" in capfd.readouterr().err)
    assert outbox.waiting() == 1
    hook.status = 200
    assert outbox.drain(20) == 0
    assert hook.numbers == [1]
    outbox.close()


def test_a_refused_event_holds_no_other_one_back(tmp_path):
    receiver = Taking(lambda body: NotTaken("it is bad", alone=True) if body == "bad" else None)
    outbox = Outbox(tmp_path / "queue", {"it": receiver}, first_s=60)
    for body in ("bad", "good", "better"):
        outbox.accept(body)
    assert until(lambda: receiver.taken == ["good", "better"])
    assert outbox.waiting() == 1
    outbox.close()


def test_a_receiver_that_is_away_gets_all_in_their_order(tmp_path):
    away = [NotTaken("away")] * 3
    receiver = Taking(lambda body: away.pop() if away else None)
    outbox = Outbox(tmp_path / "queue", {"it": receiver}, first_s=0.01)
    for number in range(20):
        outbox.accept(str(number))
    assert outbox.drain(20) == 0
    assert receiver.taken == [str(number) for number in range(20)]
    outbox.close()


def test_one_receiver_does_not_wait_for_another(tmp_path):
    away, here = Taking(lambda body: NotTaken("away")), Taking()
    outbox = Outbox(tmp_path / "queue", {"away": away, "here": here}, first_s=60)
    outbox.accept("1")
    assert until(lambda: here.taken == ["1"])
    outbox.close()


def test_no_fault_of_a_receiver_ends_the_sending(tmp_path, capfd):
    faults = [http.client.BadStatusLine("SSH"), ZeroDivisionError()]
    receiver = Taking(lambda body: faults.pop() if faults else None)
    outbox = Outbox(tmp_path / "queue", {"it": receiver}, first_s=0.01)
    outbox.accept("1")
    assert outbox.drain(20) == 0
    assert receiver.taken == ["1"]
    assert capfd.readouterr().err.splitlines() == [
        "lpr: it: ZeroDivisionError; again in 0.01 s",
        "lpr: it: SSH; again in 0.02 s",
    ]
    outbox.close()


def full(outbox: Outbox) -> None:
    """Let the queue's file grow no more, as on a full disk."""
    (pages,) = outbox._connection.execute("pragma page_count").fetchone()
    outbox._connection.execute(f"pragma max_page_count = {pages}")


def test_an_event_for_which_the_disk_has_no_room_is_lost_alone(tmp_path):
    outbox = Outbox(tmp_path / "queue", {"it": Taking(lambda body: NotTaken("away"))}, first_s=60)
    assert outbox.accept("1") == {}
    full(outbox)
    assert outbox.accept(100_000 * "2") == {"it": "its queue cannot be written (database or disk is full)"}
    assert outbox.waiting() == 1
    outbox.close()


def test_what_was_taken_is_sent_once_where_that_cannot_be_noted(tmp_path, capfd):
    outbox: Outbox

    def unwritable(body: str) -> None:
        with outbox._news:
            outbox._connection.execute("pragma query_only = 1")

    receiver = Taking(unwritable)
    outbox = Outbox(tmp_path / "queue", {"it": receiver}, first_s=0.01)
    outbox.accept("1")
    assert until(lambda: capfd.readouterr().err.count("lpr: it: attempt to write a readonly database; again in") >= 1)
    with outbox._news:
        outbox._connection.execute("pragma query_only = 0")
    assert outbox.drain(20) == 0
    assert receiver.taken == ["1"]
    outbox.close()


def test_a_queue_that_cannot_be_read_for_a_while_is_read_again(tmp_path, capfd):
    receiver = Taking()
    outbox = Outbox(tmp_path / "queue", {"it": receiver}, first_s=0.01)
    with outbox._news:
        outbox._connection.execute("alter table events rename to away")
        outbox._news.notify_all()
    assert until(lambda: "lpr: it: no such table: events; again in" in capfd.readouterr().err)
    assert outbox.drain(20) == 0
    assert "cannot be counted: no such table" in capfd.readouterr().err
    with outbox._news:
        outbox._connection.execute("alter table away rename to events")
    outbox.accept("1")
    assert until(lambda: receiver.taken == ["1"])
    outbox.close()


def test_a_receiver_that_does_not_return_holds_no_end_up(tmp_path, monkeypatch):
    monkeypatch.setattr(outboxes, "CLOSE_S", 0.05)
    sending, released = Event(), Event()

    def held(body: str) -> None:
        sending.set()
        released.wait(20)

    receiver = Taking(held)
    outbox = Outbox(tmp_path / "queue", {"it": receiver})
    outbox.accept("1")
    assert sending.wait(20)
    outbox.close()
    assert receiver.taken == []
    released.set()
    assert until(lambda: not any(thread.is_alive() for thread in outbox._threads))
    outbox = Outbox(tmp_path / "queue", {"it": (again := Taking())})  # that it was taken could not be noted
    assert until(lambda: again.taken == ["1"])
    outbox.close()


def test_what_waits_for_a_receiver_that_is_not_named_is_counted(tmp_path):
    away = Taking(lambda body: NotTaken("away"))
    outbox = Outbox(tmp_path / "queue", {"one": away, "other": away}, first_s=60)
    for number in range(3):
        outbox.accept(str(number))
    assert outbox.left_over == {}
    outbox.close()
    outbox = Outbox(tmp_path / "queue", {"one": away}, first_s=60)
    assert outbox.left_over == {"other": 3}
    outbox.close()


def test_the_queue_is_bounded_and_tells_so(tmp_path):
    outbox = Outbox(tmp_path / "queue", {"it": Taking(lambda body: NotTaken("away"))}, limit=2, first_s=60)
    assert [outbox.accept(str(number)) for number in range(4)] == [{}, {}, *2 * [{"it": "its queue is full"}]]
    assert outbox.waiting() == 2
    outbox.close()


def test_the_webhook_gets_what_it_can_verify(hook):
    Webhook(hook.address, b"secret").send('{"id": "1"}')
    assert verified(b"secret", hook.bodies[0], hook.signatures[0], time.time())
    assert not verified(b"other", hook.bodies[0], hook.signatures[0], time.time())
    assert not verified(b"secret", hook.bodies[0] + b" ", hook.signatures[0], time.time())
    assert not verified(b"secret", hook.bodies[0], hook.signatures[0], time.time() + 1000)
    assert not verified(b"secret", b"", "nonsense", time.time())


def test_a_signature_is_what_the_documents_say():
    digest = hmac.new(b"key", b"1.{}", "sha256").hexdigest()
    assert signature(b"key", b"{}", 1) == f"t=1,v1={digest}"


@pytest.mark.parametrize(("status", "alone"), [(500, False), (429, False), (400, True), (302, True)])
def test_what_the_webhook_answers(hook, status, alone):
    hook.status = status
    with pytest.raises(NotTaken) as raised:
        Webhook(hook.address, None).send('{"id": "1"}')
    assert raised.value.alone == alone


@contextmanager
def answering(*pieces: bytes) -> Iterator[str]:
    """The address of a server that answers one request with these bytes, a little after each other."""

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(10_000)
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(20)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", "is not HTTP: SSH-2.0-OpenSSH_9"),
        (b"HTTP/1.1 200 OK\r\n" + 200 * b"X: 1\r\n" + b"\r\n", "is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + 100_000 * b"x" + b"\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "is not HTTP"),
        (b"", "does not answer"),
    ],
)
def test_whatever_answers_the_event_is_kept(answer, told):
    with answering(answer) as address, pytest.raises(NotTaken, match=told) as raised:
        Webhook(address, None).send('{"id": "1"}')
    assert not raised.value.alone


def test_an_answer_that_comes_drop_by_drop_is_none(monkeypatch):
    monkeypatch.setattr(receivers, "TIMEOUT_S", 0.2)
    drops = [b"HTTP/1.1 200 OK\r\n", *(50 * [b"X: 1\r\n"]), b"\r\n"]
    with answering(*drops) as address, pytest.raises(NotTaken, match="timed out"):
        Webhook(address, None).send('{"id": "1"}')


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http:///plates",
        "ftp://host/",
        "host/plates",
        "http://user:secret@host/",
        "http://host/a b",
        "http://host/a\tb",
        "http://host/门",
        "http://门/",
        "http://host:port/",
        "http://host:99999/",
        "http://host:0/",
        "http://[::1",
        "http://a..b/",
    ],
)
def test_an_address_to_which_nothing_can_be_posted_is_refused(address):
    with pytest.raises(BadParameter, match="A webhook is") as raised:
        Webhook(address, b"secret")
    assert "secret" not in str(raised.value)


def test_a_webhook_that_is_away_is_none_of_the_events_fault(hook):
    hook.stop()
    with pytest.raises(NotTaken) as raised:
        Webhook(hook.address, None).send('{"id": "1"}')
    assert not raised.value.alone
    hook.start()


def test_lines_are_appended_once(tmp_path):
    file = tmp_path / "events.jsonl"
    lines = JsonLines(file)
    for body in ('{"id": "1"}', '{"id": "2"}', '{"id": "2"}'):
        lines.send(body)
    assert file.read_text() == '{"id": "1"}\n{"id": "2"}\n'


def test_a_line_that_was_cut_off_ends_before_the_next(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"id": "1"}\n{"id"')
    JsonLines(file).send('{"id": "2"}')
    assert file.read_text() == '{"id": "1"}\n{"id"\n{"id": "2"}\n'


def test_a_file_that_cannot_be_written_keeps_the_event(tmp_path):
    with pytest.raises(NotTaken, match="cannot be written"):
        JsonLines(tmp_path / "none" / "events").send("{}")


@pytest.mark.parametrize("name", ["none/queue", "text", "."])
def test_a_queue_that_cannot_be_used_is_refused(tmp_path, name):
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(BadParameter, match="name a file"):
        Outbox(tmp_path / name, {"it": Taking()})


def test_a_queue_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    Outbox(tmp_path / "queue", {}).close()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, **how: connect(f"file:{file}?mode=ro", uri=True, **how))
    with pytest.raises(BadParameter, match="readonly"):
        Outbox(tmp_path / "queue", {"it": Taking()})
