"""Receiver of events over MQTT, with the messages by which Home Assistant discovers each camera as a sensor.

==================================================== ================================================================
topic                                                message
==================================================== ================================================================
PREFIX/CAMERA/plate                                  the event, with quality of service 1
PREFIX/CAMERA/status                                 online or offline, retained; the broker says offline by the will
homeassistant/sensor/PREFIX_CAMERA/plate/config      what Home Assistant is to know of the camera, retained
==================================================== ================================================================

A connection has one will, so CAMERA of the status is the first camera of the process, for all of them. Processes that
share a broker have different cameras, so none of them says offline for another.

Its client id follows from the same names. Where a connection broke without the broker's knowledge, the next one takes
its session over: the broker publishes the will of the old one first, and not later over the new one's `online`.

A name with characters that may not stand there has _ for each of them, and at its end a digest of the name, so that
different names stay different.
"""

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from service.errors import BadParameter
from service.video.addresses import split
from service.video.outbox import NotTaken

TIMEOUT_S: Final = 10.0
AWAY: Final = "the broker does not answer"
PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
USAGE: Final = "An MQTT address is mqtt://HOST or mqtts://HOST, with USER@, :PORT and /PREFIX if needed."
DISCOVERY: Final = "homeassistant"
NOT_IN_TOPICS: Final = r"[/+#\x00-\x1f\x7f-\x9f]"
NOT_IN_DISCOVERY: Final = r"[^A-Za-z0-9_-]"  # Home Assistant ignores other topics


class Broker(NamedTuple):
    """Where a broker is, as `mqtt://USER@HOST:PORT/PREFIX` names it."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None
    prefix: str


def broker(address: str, password: str | None) -> Broker:
    """The broker of an address; `password` is that of the environment. Raises BadParameter."""
    parts = split(address, USAGE)
    if parts.scheme not in PORTS or not parts.hostname:
        raise BadParameter(USAGE)
    if parts.password is not None:
        raise BadParameter("Others see the command line: set LPR_MQTT_PASSWORD instead of a password in the address.")
    prefix = parts.path.strip("/") or "lpr"
    if not re.fullmatch(r"[\w/-]{1,64}", prefix):
        raise BadParameter("The prefix of the topics has letters, digits, _, - and / only.")
    user = unquote(parts.username) if parts.username else None
    return Broker(parts.hostname, parts.port or PORTS[parts.scheme], parts.scheme == "mqtts", user, password, prefix)


class Mqtt:
    """A connection that is opened again whenever it breaks."""

    def __init__(self, where: Broker, cameras: Sequence[str]) -> None:
        """`cameras` are those of this process, at least one."""
        self._where, self._cameras = where, cameras
        self._status = status(where.prefix, cameras[0])
        self._connected, self._why = threading.Event(), AWAY  # why it is not connected
        self._untaken = dict[str, Any]()  # the event that the broker did not take in time, and its message
        self._client = client = _client(self._status)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.will_set(self._status, "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 60)
        if where.user:
            client.username_pw_set(where.user, where.password)
        if where.tls:
            client.tls_set()
        client.connect_async(where.host, where.port, keepalive=30)
        client.loop_start()

    def send(self, body: str) -> None:
        """Publish, and wait until the broker has taken it.

        An event that was not taken in time is not published again: paho keeps it, and sends it at each connection.
        """
        if not self._connected.wait(TIMEOUT_S):
            raise NotTaken(self._why)
        message = self._untaken.pop(body, None) or self._publish(body)
        try:
            message.wait_for_publish(TIMEOUT_S)
        except (RuntimeError, ValueError) as error:
            raise NotTaken(f"the broker did not take it: {error}") from error
        if not message.is_published():
            self._untaken = {body: message}
            raise NotTaken("the broker did not take it in time")

    def _publish(self, body: str) -> Any:
        """The message of an event; its `rc` is an error only where paho does not keep it."""
        from paho.mqtt.enums import MQTTErrorCode

        message = self._client.publish(topic(self._where.prefix, json.loads(body)["camera"]), body, qos=1)
        if message.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            message.rc = MQTTErrorCode.MQTT_ERR_SUCCESS  # where it is not connected just now, it is sent later
        return message

    def close(self) -> None:
        """Say that the cameras are offline, and disconnect."""
        if self._connected.is_set():
            with suppress(RuntimeError, ValueError):  # the connection broke just now, and the will says it
                self._client.publish(self._status, "offline", qos=1, retain=True).wait_for_publish(2)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._why = f"the broker refuses the connection: {reason}"
            return
        self._why = AWAY
        for camera in self._cameras:
            where, message = discovery(self._where.prefix, camera, self._status)
            client.publish(where, json.dumps(message), qos=1, retain=True)
        client.publish(self._status, "online", qos=1, retain=True)
        self._connected.set()

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        self._why = AWAY

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._connected.clear()


def topic(prefix: str, camera: str) -> str:
    """Where a camera's events go."""
    return f"{prefix}/{_word(camera, NOT_IN_TOPICS)}/plate"


def status(prefix: str, camera: str) -> str:
    """Where a process says whether it is online; `camera` is its first one."""
    return f"{prefix}/{_word(camera, NOT_IN_TOPICS)}/status"


def discovery(prefix: str, camera: str, available: str) -> tuple[str, dict[str, Any]]:
    """Topic and message by which Home Assistant makes a sensor of a camera: its state is the last plate's text.

    `available` is the topic of `status`.
    """
    group = re.sub("/+", "_", prefix)
    node = f"{_word(group, NOT_IN_DISCOVERY)}_{_word(camera, NOT_IN_DISCOVERY)}"
    state = topic(prefix, camera)
    return f"{DISCOVERY}/sensor/{node}/plate/config", {
        "name": "Plate",
        "unique_id": f"{node}_plate",
        "state_topic": state,
        "value_template": "{{ value_json.text }}",
        "json_attributes_topic": state,
        "availability_topic": available,
        "icon": "mdi:car",
        "force_update": True,
        "device": {"identifiers": [node], "name": camera, "manufacturer": "lpr"},
        "origin": {"name": "lpr"},
    }


def _word(text: str, forbidden: str) -> str:
    """The text without what is forbidden, and different for each text."""
    allowed = re.sub(forbidden, "_", text)
    return allowed if allowed == text else f"{allowed}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _client(name: str) -> Any:
    """A client of paho, whose id is that of the name in each process."""
    try:
        from paho.mqtt import client
        from paho.mqtt.enums import CallbackAPIVersion
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"MQTT needs paho-mqtt, which the extra `video` installs: pip install 'lpr[video]' ({error})."
        ) from error
    # of the 23 letters and digits that every broker allows
    return client.Client(CallbackAPIVersion.VERSION2, f"lpr{hashlib.sha256(name.encode()).hexdigest()[:20]}")
