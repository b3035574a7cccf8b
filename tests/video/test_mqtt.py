"""Events over MQTT, with Debian's broker."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from service.errors import BadParameter
from service.video import mqtt
from service.video.mqtt import Mqtt, broker, discovery, status, topic
from service.video.outbox import NotTaken, Outbox
from tests.support.processes import program


class Mosquitto:
    """A broker that keeps what it has over restarts."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._file = folder / "mosquitto.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        self._file.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\n{user}"
        )
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [program("mosquitto"), "-c", self._file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    @property
    def address(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


class Listening:
    """A subscriber whose session the broker keeps."""

    def __init__(self, mosquitto: Mosquitto) -> None:
        self.messages: list[tuple[str, str]] = []
        self.ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "listening", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self.ready.set()
        self._client.on_message = lambda _, __, message: self.messages.append((message.topic, message.payload.decode()))
        self._client.connect("127.0.0.1", mosquitto.port)
        self._client.loop_start()
        assert self.ready.wait(20)

    def of(self, name: str) -> list[str]:
        return [body for where, body in self.messages if where == name]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Proxy:
    """Passes connections on to the broker."""

    def __init__(self, port: int) -> None:
        self._port, self.pairs = port, list[tuple[socket.socket, socket.socket]]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                pair = client, socket.create_connection(("127.0.0.1", self._port))
                self.pairs.append(pair)
                for one, other in (pair, pair[::-1]):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(10_000):
                other.sendall(data)

    def reset_client(self) -> None:
        """Reset the first connection on the client's side; the broker sees nothing of it."""
        client, _ = self.pairs[0]
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.shutdown(socket.SHUT_RD)  # `recv` returns, and the socket is not in use any more
        client.close()

    def close(self) -> None:
        self._listener.close()
        for one in [one for pair in self.pairs for one in pair]:
            one.close()


@pytest.fixture
def mosquitto(tmp_path):
    made = Mosquitto(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def listening(mosquitto):
    made = Listening(mosquitto)
    yield made
    made.close()


def event(number: int) -> str:
    return json.dumps({"id": str(number), "camera": "front door", "text": "京A12345"})


def until(condition) -> bool:
    end = time.monotonic() + 20
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(met)


@pytest.mark.slow
def test_home_assistant_discovers_each_camera(mosquitto, listening):
    receiver = Mqtt(broker(mosquitto.address, None), ["front door"])
    receiver.send(event(1))
    where, message = discovery("lpr", "front door", state := status("lpr", "front door"))
    assert until(lambda: listening.of("lpr/front door/plate") and listening.of(where) and listening.of(state))
    assert json.loads(listening.of(where)[0]) == message
    assert message["state_topic"] == topic("lpr", "front door") == "lpr/front door/plate"
    assert message["availability_topic"] == state == "lpr/front door/status"
    assert listening.of(state) == ["online"]
    receiver.close()
    assert until(lambda: listening.of(state)[-1] == "offline")


@pytest.mark.slow
def test_the_end_of_one_process_leaves_the_cameras_of_another_available(mosquitto, listening):
    gone, still = (Mqtt(broker(mosquitto.address, None), cameras) for cameras in (["gate", "yard"], ["street"]))

    def available(camera: str) -> list[str]:
        where, _ = discovery("lpr", camera, "")
        return [state for told in listening.of(where) for state in listening.of(json.loads(told)["availability_topic"])]

    cameras = ("gate", "yard", "street")
    assert until(lambda: [available(camera) for camera in cameras] == [["online"]] * 3)
    gone.close()
    assert until(lambda: [available(camera)[-1] for camera in cameras] == ["offline", "offline", "online"])
    still.close()
    assert until(lambda: available("street") == ["online", "offline"])


@pytest.mark.slow
def test_cameras_are_online_after_a_break_that_the_broker_did_not_see(mosquitto, listening):
    proxy = Proxy(mosquitto.port)
    receiver = Mqtt(broker(proxy.address, None), ["gate"])
    assert until(lambda: listening.of("lpr/gate/status") == ["online"])
    proxy.reset_client()
    assert until(lambda: listening.of("lpr/gate/status") == ["online", "offline", "online"])
    receiver.close()
    proxy.close()


@pytest.mark.slow
def test_an_event_is_published_once_where_the_broker_hangs(mosquitto, listening, monkeypatch):
    receiver = Mqtt(broker(mosquitto.address, None), ["front door"])
    receiver.send(event(1))
    with monkeypatch.context() as impatient:
        impatient.setattr(mqtt, "TIMEOUT_S", 0.1)
        mosquitto.process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            with pytest.raises(NotTaken, match="in time"):
                receiver.send(event(2))
        mosquitto.process.send_signal(signal.SIGCONT)
    receiver.send(event(2))
    receiver.send(event(3))
    assert until(lambda: event(3) in listening.of("lpr/front door/plate"))
    assert listening.of("lpr/front door/plate") == [event(1), event(2), event(3)]
    receiver.close()


@pytest.mark.slow
def test_an_event_that_meets_a_break_is_published_once_after_it(mosquitto, listening, monkeypatch):
    receiver = Mqtt(broker(mosquitto.address, None), ["front door"])
    assert receiver._connected.wait(20)
    mosquitto.stop()
    assert until(lambda: not receiver._connected.is_set())
    receiver._connected.set()  # as it is just before the break is known
    with monkeypatch.context() as impatient:
        impatient.setattr(mqtt, "TIMEOUT_S", 0.1)
        with pytest.raises(NotTaken, match="in time"):
            receiver.send(event(2))
    listening.ready.clear()
    mosquitto.start()
    assert listening.ready.wait(20)
    for number in (2, 3):
        receiver.send(event(number))
    assert until(lambda: event(3) in listening.of("lpr/front door/plate"))
    assert listening.of("lpr/front door/plate") == [event(2), event(3)]
    receiver.close()


@pytest.mark.slow
def test_nothing_is_lost_where_the_broker_is_killed(mosquitto, listening, tmp_path):
    outbox = Outbox(tmp_path / "queue", {"mqtt": Mqtt(broker(mosquitto.address, None), ["front door"])}, first_s=0.1)
    for number in range(5):
        outbox.accept(event(number))
    assert outbox.drain(20) == 0
    assert until(lambda: len(listening.of("lpr/front door/plate")) == 5)
    mosquitto.process.kill()
    mosquitto.process.wait()
    for number in range(5, 10):
        outbox.accept(event(number))
    time.sleep(0.3)
    assert outbox.waiting() == 5
    listening.ready.clear()
    mosquitto.start()
    assert listening.ready.wait(20)
    assert outbox.drain(30) == 0  # the broker has acknowledged all, perhaps before the listener was there again
    outbox.accept(event(10))
    assert until(lambda: "10" in {json.loads(body)["id"] for body in listening.of("lpr/front door/plate")})
    outbox.close()


@pytest.mark.slow
def test_the_next_process_publishes_what_the_last_one_could_not(mosquitto, listening, tmp_path, monkeypatch):
    mosquitto.stop()
    receiver = Mqtt(broker(mosquitto.address, None), ["front door"])
    monkeypatch.setattr(receiver._connected, "wait", lambda timeout: False)  # without its ten seconds
    with pytest.raises(NotTaken, match="does not answer"):
        receiver.send(event(1))
    outbox = Outbox(tmp_path / "queue", {"mqtt": receiver}, first_s=60)
    outbox.accept(event(1))
    outbox.close()
    mosquitto.start()
    outbox = Outbox(tmp_path / "queue", {"mqtt": Mqtt(broker(mosquitto.address, None), ["front door"])})
    assert outbox.drain(20) == 0
    outbox.close()


def test_an_address_names_all():
    found = broker("mqtts://home@host:8884/garage/lpr", "secret")
    assert found == ("host", 8884, True, "home", "secret", "garage/lpr")
    assert broker("mqtt://host", None)[:3] == ("host", 1883, False)


@pytest.mark.parametrize(
    "address",
    [
        "http://host",
        "mqtt://",
        "mqtt://a:secret@host",
        "mqtt://host/a+b",
        "mqtt://host:port",
        "mqtt://host:99999",
        "mqtt://host:0",
        "mqtt://[::1",
        "mqtt://a..b",
        f"mqtt://{70 * 'a'}",
    ],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(BadParameter) as raised:
        broker(address, None)
    assert "secret" not in str(raised.value)


def test_cameras_of_different_names_are_different():
    names = ["门", "院", "front.door", "front_door", "a/b", "a+b", "a_b"]
    told = [discovery("lpr", name, status("lpr", name)) for name in names]
    assert [topic("lpr", name) for name in names[:4]] == [f"lpr/{name}/plate" for name in names[:4]]
    for distinct in ([topic("lpr", name) for name in names], [where for where, _ in told]):
        assert len(set(distinct)) == len(names)
    assert len({message["unique_id"] for _, message in told}) == len(names)
    assert all(re.fullmatch(r"homeassistant/sensor/[a-zA-Z0-9_-]+/plate/config", where) for where, _ in told)
    assert all(topic("lpr", name).count("/") == 2 and not set("+#") & set(topic("lpr", name)) for name in names)


def test_plain_names_are_their_own_topics():
    where, message = discovery("garage/lpr", "gate-1", "")
    assert (where, message["unique_id"]) == (
        "homeassistant/sensor/garage_lpr_gate-1/plate/config",
        "garage_lpr_gate-1_plate",
    )
    assert topic("garage/lpr", "gate-1") == "garage/lpr/gate-1/plate"
    assert status("garage/lpr", "gate-1") == "garage/lpr/gate-1/status"


def refusing(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"\x20\x02\x00\x04")  # CONNACK: bad user name or password


def test_why_the_broker_refuses_is_told(monkeypatch):
    monkeypatch.setattr(mqtt, "TIMEOUT_S", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refusing, args=(listener,), daemon=True).start()
        receiver = Mqtt(broker(f"mqtt://lpr@127.0.0.1:{listener.getsockname()[1]}", "wrong"), ["gate"])

        def told() -> str:
            with pytest.raises(NotTaken) as raised:
                receiver.send(event(1))
            return str(raised.value).lower()

        assert until(lambda: "bad user name or password" in told())
    assert until(lambda: "does not answer" in told())  # it is no longer there
    receiver.close()
