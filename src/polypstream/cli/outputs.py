"""Options of the outputs of `polypstream live`: pushed streams, receivers of events, metrics."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polypstream.cli.options import secret_in

if TYPE_CHECKING:
    from polypstream.realtime.live.events import Event
    from polypstream.realtime.live.outputs.ndi import Ndi
    from polypstream.realtime.live.outputs.output import EventOutput, EventReceiver
    from polypstream.realtime.live.outputs.push import Push
    from polypstream.realtime.live.viewers.prometheus import Metrics
    from polypstream.realtime.live.viewers.viewer import Viewer

PUSH_CREDENTIALS_VARIABLE = "POLYPSTREAM_PUSH_CREDENTIALS"
WEBHOOK_SECRET_VARIABLE = "POLYPSTREAM_WEBHOOK_SECRET"
MQTT_CREDENTIALS_VARIABLE = "POLYPSTREAM_MQTT_CREDENTIALS"

PushOption = Annotated[
    list[str] | None,
    typer.Option(
        "--push",
        envvar="POLYPSTREAM_PUSH",
        show_envvar=True,
        metavar="URL",
        help="Send the marked video to this rtsp://, rtmp://, udp:// or tcp:// (MPEG-TS) or whip+https:// (WebRTC) "
        "address, or keep it as HLS in this folder; repeatable.",
        show_default=False,
    ),
]
PushSizeOption = Annotated[
    str | None,
    typer.Option(metavar="WxH", help="Size of pushed streams.", show_default="that of the first frame"),
]
PushBitrateOption = Annotated[int, typer.Option(metavar="KBPS", help="Maximum bit rate of pushed streams in kbit/s.")]
PushCredentialsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with user:password, or the password alone, of the server pushed to, or the bearer token of a "
        f"WHIP server. The environment variable {PUSH_CREDENTIALS_VARIABLE} is read as well.",
    ),
]
NdiOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Offer the marked video as an NDI source of this name.", show_default=False),
]
WebhookOption = Annotated[
    str | None,
    typer.Option(
        envvar="POLYPSTREAM_WEBHOOK",
        metavar="URL",
        help="Post each event as JSON to this http:// or https:// address.",
        show_default=False,
    ),
]
WebhookSecretOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with the secret by which webhook requests are signed. The environment variable "
        f"{WEBHOOK_SECRET_VARIABLE} is read as well.",
    ),
]
MqttOption = Annotated[
    str | None,
    typer.Option(
        envvar="POLYPSTREAM_MQTT",
        metavar="URL",
        help="Publish each event at this mqtt://host:1883/topic, or mqtts:// with TLS.",
        show_default=False,
    ),
]
MqttCredentialsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with user:password of the MQTT broker. The environment variable "
        f"{MQTT_CREDENTIALS_VARIABLE} is read as well.",
    ),
]


@contextmanager
def event_outputs(
    *,
    webhook: str | None,
    webhook_secret_file: Path | None,
    mqtt: str | None,
    mqtt_credentials_file: Path | None,
    on_notice: Callable[[str], None],
) -> "Iterator[list[EventOutput]]":
    """Publish events at each receiver."""
    with ExitStack() as opened:
        outputs: list[EventOutput] = []
        if webhook is not None:
            from polypstream.realtime.live.outputs.webhook import Webhook

            secret = secret_of(webhook_secret_file, WEBHOOK_SECRET_VARIABLE)
            outputs.append(Webhook(webhook, secret=secret, on_notice=on_notice))
            opened.callback(outputs[-1].close)
        if mqtt is not None:
            from polypstream.realtime.live.outputs.mqtt import Mqtt
            from polypstream.realtime.live.sources.config import with_credentials

            credentials = secret_of(mqtt_credentials_file, MQTT_CREDENTIALS_VARIABLE)
            address = mqtt if credentials is None else with_credentials(mqtt, credentials)
            outputs.append(Mqtt(address, on_notice=on_notice))
            opened.callback(outputs[-1].close)
        yield outputs


def publish_to(receivers: "Sequence[EventReceiver]", event: "Event", *, stream: int | None) -> None:
    """Give an event to each receiver, with the number of its stream where there are several."""
    if stream is not None:
        event = replace(event, details={**event.details, "stream": stream})
    for receiver in receivers:
        receiver.publish(event)


@contextmanager
def metrics_at(port: int, *, on_notice: Callable[[str], None]) -> "Iterator[Metrics]":
    """Serve metrics at a port of this machine."""
    from polypstream.realtime.live.viewers.prometheus import Metrics, MetricsConfig

    with Metrics(MetricsConfig(port=port)) as metrics:
        on_notice(f"metrics are at {metrics.address}")
        yield metrics


def open_pages(viewer: "Viewer") -> int:
    """Number of browsers that show a page; 0 for other viewers."""
    return len(getattr(viewer, "clients", ()))


@contextmanager
def ndi_sources(name: str | None, *, on_notice: Callable[[str], None]) -> "Iterator[list[Ndi]]":
    """Offer an NDI source of this name, or none."""
    if name is None:
        yield []
        return
    from contextlib import closing

    from polypstream.realtime.live.outputs.ndi import Ndi

    with closing(Ndi(name, on_notice=on_notice)) as source:
        yield [source]


@contextmanager
def pushes(
    urls: Sequence[str],
    *,
    size: tuple[int, int] | None,
    bitrate_kbps: int,
    credentials_file: Path | None,
    on_notice: Callable[[str], None],
) -> "Iterator[list[Push]]":
    """Push to each address; all addresses are checked before anything is sent."""
    if not urls:
        yield []
        return
    from polypstream.realtime.live.outputs.address import push_address
    from polypstream.realtime.live.outputs.push import Push, PushConfig

    credentials = secret_of(credentials_file, PUSH_CREDENTIALS_VARIABLE)
    addresses = [push_address(url, credentials=credentials) for url in urls]
    config = PushConfig(size=size, bitrate_kbps=bitrate_kbps)
    with ExitStack() as opened:
        yield [opened.enter_context(Push(address, config, on_notice=on_notice)) for address in addresses]


def secret_of(file: Path | None, variable: str) -> str | None:
    """The secret in the first line of a file, or in an environment variable; None if there is none."""
    return (os.environ.get(variable) or None) if file is None else secret_in(file)
