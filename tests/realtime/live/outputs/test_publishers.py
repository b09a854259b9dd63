"""Events reach a web server and a broker in order, each once more rather than never, and delay nothing."""

import base64
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from polypstream.errors import ConfigError, MissingExtraError
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.outputs import publisher as publisher_module
from polypstream.realtime.live.outputs.mqtt import Mqtt
from polypstream.realtime.live.outputs.publisher import EventPublisher
from polypstream.realtime.live.outputs.webhook import Webhook
from tests.realtime.live.feeds import free_port, wait_until
from tests.realtime.live.outputs.servers import Receiver

pytestmark = pytest.mark.realtime
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs Debian's mosquitto")


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(publisher_module, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(publisher_module, "LONGEST_RETRY_S", 0.1)
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@contextmanager
def closing(publisher: EventPublisher) -> Iterator[EventPublisher]:
    try:
        yield publisher
    finally:
        publisher.close()


def publish(publisher: EventPublisher, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        publisher.publish(Event(kind=EventKind.POLYP_APPEARED, pts_s=number / 25, details={"identity": number}))


def test_webhook_posts_signed_events_in_order() -> None:
    key = base64.b64encode(b"a key of 24 bytes or more").decode()
    with Receiver() as receiver, closing(Webhook(receiver.url, secret=f"whsec_{key}")) as webhook:
        publish(webhook, 20)
        wait_until(lambda: len(receiver.requests) == 20)
        wait_until(lambda: webhook.state.sent == 20)
    assert receiver.identities == list(range(20))
    for number, (headers, body) in enumerate(receiver.requests, start=1):
        record = json.loads(body)
        assert record["event"] == "polyp_appeared"
        assert record["pts_s"] == (number - 1) / 25
        assert headers["webhook-id"] == f"{record['session']}-{record['sequence']}"
        assert record["sequence"] == number
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        signature = hmac.new(b"a key of 24 bytes or more", signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(signature).decode()}"


def test_webhook_sends_again_what_was_not_accepted_and_skips_what_never_will_be() -> None:
    notices: list[str] = []
    with Receiver() as receiver, closing(Webhook(receiver.url, on_notice=notices.append)) as webhook:
        receiver.answers = [503, 302, 429, 204, 422]
        publish(webhook, 4)
        wait_until(lambda: len(receiver.requests) == 3)
        wait_until(lambda: webhook.state.is_working)
        state, events = webhook.state, webhook.take_events()
    assert receiver.identities == [0, 2, 3]
    assert (state.sent, state.dropped, state.failures) == (3, 1, 4)
    assert [event.kind for event in events][-1] is EventKind.OUTPUT_CONNECTED
    assert "503 Service Unavailable" in notices[0]
    assert not any("secret-part" in text for text in (*notices, state.label, str(events)))


def test_webhook_loses_nothing_while_its_server_is_away() -> None:
    port = free_port()
    with closing(Webhook(f"http://127.0.0.1:{port}/hook")) as webhook:
        publish(webhook, 5)
        wait_until(lambda: webhook.state.failures > 1)
        assert "refused" in webhook.state.problem
        with Receiver(port) as receiver:
            wait_until(lambda: len(receiver.requests) == 5)
        publish(webhook, 5, first=5)
        wait_until(lambda: not webhook.state.is_working)
        with Receiver(port) as later:
            wait_until(lambda: len(later.requests) == 5)
            wait_until(lambda: webhook.state.sent == 10)
        assert receiver.identities + later.identities == list(range(10))
        assert webhook.state.dropped == 0


def test_oldest_events_are_dropped_and_counted_while_the_queue_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "CAPACITY", 10)
    port = free_port()
    with closing(Webhook(f"http://127.0.0.1:{port}/hook")) as webhook:
        publish(webhook, 25)
        assert webhook.state.dropped == 15
        with Receiver(port) as receiver:
            wait_until(lambda: webhook.state.sent == 10)
        assert receiver.identities == list(range(15, 25))


def test_silent_receiver_delays_neither_the_session_nor_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polypstream.realtime.live.outputs.webhook.RECEIVER_S", 0.5)
    monkeypatch.setattr(publisher_module, "END_S", 0.5)
    notices: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        webhook = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/hook", on_notice=notices.append)
        began = monotonic()
        publish(webhook, 3)
        assert monotonic() - began < 0.3
        webhook.close()
    assert webhook.state.dropped == 3
    assert "3 events did not reach" in notices[-1]


@pytest.mark.parametrize("url", ["ftp://host/x", "https://", "http://user:secret@host/x", "http://host:port/x"])
def test_invalid_webhook_is_an_error_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="https://host/path") as raised:
        Webhook(url)
    assert "secret" not in str(raised.value)


class Broker:
    """Debian's mosquitto; leaving it ends the process."""

    def __init__(self, folder: Path, port: int, *, password: str = "") -> None:
        config = f"listener {port} 127.0.0.1\nuser root\npersistence false\n"
        if password:
            users = folder / "users"
            users.touch(mode=0o600)
            subprocess.run(["mosquitto_passwd", "-b", users, "lab", password], check=True)
            config += f"password_file {users}\n"
        else:
            config += "allow_anonymous true\n"
        self._config = folder / "mosquitto.conf"
        self._config.write_text(config)
        self._port = port

    def __enter__(self) -> "Broker":
        assert MOSQUITTO is not None
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stderr=subprocess.DEVNULL)
        wait_until(self._answers)
        return self

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def subscribed(port: int, credentials: tuple[str, str] | None = None) -> Iterator[list[tuple[str, bytes]]]:
    """Everything published, as topic and content."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    messages: list[tuple[str, bytes]] = []
    client, is_subscribed = Client(CallbackAPIVersion.VERSION2), threading.Event()
    if credentials is not None:
        client.username_pw_set(*credentials)
    client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda *_: is_subscribed.set()
    client.on_message = lambda _, __, message: messages.append((message.topic, bytes(message.payload)))
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert is_subscribed.wait(10)
    try:
        yield messages
    finally:
        client.disconnect()
        client.loop_stop()


def identities(messages: list[tuple[str, bytes]], topic: str) -> list[int]:
    return [json.loads(content)["identity"] for name, content in messages if name == topic]


@needs_broker
def test_broker_receives_events_in_order_and_the_status(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt")
    port = free_port()
    with Broker(tmp_path, port, password="a secret"), subscribed(port, ("lab", "a secret")) as messages:
        with closing(Mqtt(f"mqtt://lab:a%20secret@127.0.0.1:{port}/room1/polyps")) as mqtt:
            assert mqtt.state.label == f"mqtt://127.0.0.1:{port}/room1/polyps"
            publish(mqtt, 20)
            wait_until(lambda: mqtt.state.sent == 20)
        wait_until(lambda: len(messages) >= 22)
    assert identities(messages, "room1/polyps") == list(range(20))
    assert [content for name, content in messages if name == "room1/polyps/status"] == [b"online", b"offline"]


@needs_broker
def test_nothing_is_lost_while_the_broker_is_away(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt")
    port = free_port()
    with closing(Mqtt(f"mqtt://127.0.0.1:{port}")) as mqtt:
        publish(mqtt, 3)
        wait_until(lambda: mqtt.state.failures > 0)
        assert "refused" in mqtt.state.problem
        with Broker(tmp_path, port), subscribed(port) as first:
            wait_until(lambda: len(identities(first, "polypstream/events")) == 3)
        publish(mqtt, 5, first=3)
        wait_until(lambda: not mqtt.state.is_working)
        with Broker(tmp_path, port), subscribed(port) as later:
            wait_until(lambda: mqtt.state.sent == 8)
            publish(mqtt, 1, first=8)
            wait_until(lambda: 8 in identities(later, "polypstream/events"))
        assert mqtt.state.dropped == 0


@needs_broker
def test_refused_password_is_named(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt")
    port = free_port()
    with Broker(tmp_path, port, password="right"), closing(Mqtt(f"mqtt://lab:wrong@127.0.0.1:{port}")) as mqtt:
        publish(mqtt, 1)
        wait_until(lambda: mqtt.state.problem)
        assert "refuses the connection (not authorized)" in mqtt.state.problem
        assert "wrong" not in mqtt.state.problem


@pytest.mark.parametrize(
    "address", ["http://host/x", "mqtt://", "mqtt://u:secret@host/a/#", "mqtt://u:secret@host:x/a"]
)
def test_invalid_broker_is_an_error_without_its_password(address: str) -> None:
    pytest.importorskip("paho.mqtt")
    with pytest.raises(ConfigError, match="mqtt://host:1883/topic") as raised:
        Mqtt(address)
    assert "secret" not in str(raised.value)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "paho.mqtt.client", None)
    with pytest.raises(MissingExtraError, match=r"\[mqtt\]"):
        Mqtt("mqtt://host")
