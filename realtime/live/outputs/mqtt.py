"""MQTT: events as messages to a broker, with quality of service 1; requires the extra `[mqtt]`."""

from collections.abc import Callable
from contextlib import suppress
from threading import Event as Signal
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from polypstream.errors import ConfigError, MissingExtraError, OutputError
from polypstream.realtime.live.outputs.publisher import RECEIVER_S, EventPublisher
from polypstream.realtime.live.sources.config import label_of, reason_of

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.reasoncodes import ReasonCode

_PORTS = {"mqtt": 1883, "mqtts": 8883}
TOPIC = "polypstream/events"
"""Topic of the events if the address has none; `/status` is appended for `online` and `offline`."""


class Mqtt(EventPublisher):
    """Publishes each event as JSON, and goes on once the broker has acknowledged it.

    The retained message at the topic with `/status` appended is `online` or `offline`, also after a crash.

    Args:
        address: `mqtt://[user:password@]host[:1883][/topic]`, or `mqtts://` with TLS.
        on_notice: Called with one line when sending fails or works again, from any thread.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
        ConfigError: The address is invalid.
    """

    def __init__(self, address: str, *, on_notice: Callable[[str], None] = lambda _: None) -> None:
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError:
            raise MissingExtraError("publishing events by MQTT", "mqtt") from None
        label = label_of(address)
        try:
            self._parts = urlsplit(address)
            self._port = self._parts.port or _PORTS[self._parts.scheme]
        except (ValueError, KeyError):
            raise ConfigError(f"{label} is not an MQTT address; write it as mqtt://host:1883/topic") from None
        self._topic = self._parts.path.strip("/") or TOPIC
        if not self._parts.hostname or set("+#?") & set(address.rpartition("@")[2]):
            raise ConfigError(f"{label} is not an MQTT address; write it as mqtt://host:1883/topic, without + or #")
        self._client: Client | None = None
        super().__init__("mqtt", label, on_notice=on_notice)

    def _send(self, number: int, body: bytes) -> None:
        client = self._client = self._client or self._connected()
        self._deliver(client, self._topic, body)

    def _deliver(self, client: "Client", topic: str, body: bytes, *, retain: bool = False) -> None:
        message = client.publish(topic, body, qos=1, retain=retain)
        with suppress(RuntimeError, ValueError):  # not connected any more, or the queue is full: not published
            message.wait_for_publish(RECEIVER_S)
            if message.is_published():
                return
        raise OutputError(f"{self._label}: the broker did not acknowledge an event")

    def _connected(self) -> "Client":
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.connect_timeout = RECEIVER_S
        if self._parts.scheme == "mqtts":
            client.tls_set()
        if self._parts.username:
            client.username_pw_set(unquote(self._parts.username), unquote(self._parts.password or ""))
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        answered, reasons = Signal(), list[str]()

        def on_connect(_: "Client", __: object, ___: object, reason: "ReasonCode", ____: object) -> None:
            if reason.is_failure:
                reasons.append(str(reason).lower())
            answered.set()

        client.on_connect = on_connect
        try:
            client.connect(str(self._parts.hostname), self._port)
        except OSError as error:
            raise OutputError(f"{self._label}: {reason_of(error)}") from None
        client.loop_start()
        if not answered.wait(RECEIVER_S) or reasons:
            client.disconnect()
            client.loop_stop()
            reason = f"the broker refuses the connection ({reasons[0]})" if reasons else "the broker does not respond"
            raise OutputError(f"{self._label}: {reason}")
        self._client = client
        self._deliver(client, f"{self._topic}/status", b"online", retain=True)
        return client

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if self._is_working and client.is_connected():
            with suppress(OutputError):
                self._deliver(client, f"{self._topic}/status", b"offline", retain=True)
        client.disconnect()
        client.loop_stop()
