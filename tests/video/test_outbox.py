"""Events on their way: nothing accepted is lost, whoever is killed."""

import hmac
import json
import signal
import sqlite3
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from service.errors import BadParameter
from service.settings import REPOSITORY
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


def test_the_queue_is_bounded_and_tells_so(tmp_path):
    outbox = Outbox(tmp_path / "queue", {"it": Taking(lambda body: NotTaken("away"))}, limit=2, first_s=60)
    assert [list(outbox.accept(str(number))) for number in range(4)] == [[], [], ["it"], ["it"]]
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
