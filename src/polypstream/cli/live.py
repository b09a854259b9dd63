"""`polypstream live`: outlines polyps on a live feed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from polypstream.cli.config import ConfigOption, PrintConfigOption
from polypstream.cli.options import BackendName, BackendOption, ModelOption, UrlOption, open_segmenter
from polypstream.cli.outputs import (
    MqttCredentialsOption,
    MqttOption,
    NdiOption,
    PushBitrateOption,
    PushCredentialsOption,
    PushOption,
    PushSizeOption,
    WebhookOption,
    WebhookSecretOption,
    event_outputs,
    metrics_at,
    ndi_sources,
    open_pages,
    publish_to,
    pushes,
    secret_of,
)
from polypstream.cli.pages import (
    PublicUrlOption,
    ServeOption,
    TlsCertOption,
    TlsKeyOption,
    TokenFileOption,
    TokenOption,
    ViewTokenFileOption,
    ended_by_signals,
    page_config,
    say,
    say_address,
)
from polypstream.cli.streams import Stream, run_streams
from polypstream.errors import ConfigError

if TYPE_CHECKING:
    from polypstream.realtime.live.outputs.output import EventReceiver
    from polypstream.realtime.live.recording.recorder import SessionRecorder
    from polypstream.realtime.live.viewers.alerts import AlertConfig
    from polypstream.realtime.live.viewers.page import Page, PageConfig
    from polypstream.realtime.live.viewers.viewer import Commands, Viewer

CREDENTIALS_VARIABLE = "POLYPSTREAM_SOURCE_CREDENTIALS"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("live")(live)


def live(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES",
            help="/dev/video0, an rtsp://, udp://, srt://, tcp:// or http:// address, or a file, played in real time; "
            "several share the model.",
            show_default=False,
        ),
    ],
    view: Annotated[
        Literal["window", "page", "none"],
        typer.Option(help="Where to display the feed: a window, a browser page, or nowhere."),
    ] = "window",
    serve: ServeOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    view_token_file: ViewTokenFileOption = None,
    public_url: PublicUrlOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    label: Annotated[
        str, typer.Option(help="Label of the session, such as a room or case number: shown, and part of the report.")
    ] = "",
    page_width: Annotated[
        int, typer.Option(min=64, max=8192, help="Maximum width and height of the images on the page, in pixels.")
    ] = 1280,
    page_quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality of the images on the page.")] = 85,
    alert_after: Annotated[
        float, typer.Option(metavar="SECONDS", help="Alert once a polyp has been marked for so long.")
    ] = 0.0,
    alert_rearm: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Time without a polyp after which the tone sounds again."),
    ] = 5.0,
    alert_quiet: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time without tone and bright corners after an acknowledgment (A).")
    ] = 30.0,
    alert_sound: Annotated[bool, typer.Option("--alert-sound", help="Sound a short tone with each alert.")] = False,
    model: ModelOption = None,
    backend: BackendOption = BackendName.AUTO,
    url: UrlOption = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            help="Operating point of the model; the model of the package has sensitive (more polyps) and specific "
            "(fewer false alarms).",
            show_default="the model's first",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.999,
            help="Probability from which a pixel counts as polyp.",
            show_default="the operating point's",
        ),
    ] = None,
    fade_ms: Annotated[
        float, typer.Option(help="Time in ms after which a marker without new inference disappears.")
    ] = 250.0,
    deadline_ms: Annotated[
        float,
        typer.Option(
            "--deadline",
            help="Delay in ms that 99% of the markers should keep; the network takes more CPU threads for it. 0: off.",
        ),
    ] = 120.0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for events, snapshots and recordings.")] = Path(
        "live"
    ),
    record: Annotated[
        Literal["feed", "overlay", "both"],
        typer.Option(help="What a recording contains: the feed as received, the frames with markers, or both."),
    ] = "feed",
    record_now: Annotated[bool, typer.Option("--record-now", help="Start recording with the first frame.")] = False,
    device_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size to request from a capture device.")
    ] = None,
    device_rate: Annotated[
        str | None,
        typer.Option(
            metavar="FPS", help="Frames per second to request from a capture device, such as 30 or 60000/1001."
        ),
    ] = None,
    device_format: Annotated[
        str | None,
        typer.Option(help="Pixel format or codec to request from a capture device, such as yuyv422 or mjpeg."),
    ] = None,
    rtsp_transport: Annotated[Literal["tcp", "udp"], typer.Option(help="Transport protocol of RTSP streams.")] = "tcp",
    virtual_camera: Annotated[
        bool,
        typer.Option("--virtual-camera", help="Provide the marked video as a virtual camera, for OBS or meetings."),
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics at this port of 127.0.0.1.")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Play a file again when it ends.")] = False,
    credentials_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with user:password, or only the password, of the source; unlike an argument, hidden from "
            f"other users of the machine. The environment variable {CREDENTIALS_VARIABLE} has the same effect.",
        ),
    ] = None,
    push: PushOption = None,
    push_size: PushSizeOption = None,
    push_bitrate: PushBitrateOption = 6000,
    push_credentials_file: PushCredentialsOption = None,
    ndi: NdiOption = None,
    webhook: WebhookOption = None,
    webhook_secret_file: WebhookSecretOption = None,
    mqtt: MqttOption = None,
    mqtt_credentials_file: MqttCredentialsOption = None,
    config: ConfigOption = None,
    print_config: PrintConfigOption = False,
    list_devices: Annotated[
        bool,
        typer.Option(
            "--list-devices",
            is_eager=True,
            callback=lambda wanted: _list_devices() if wanted else None,
            help="List the cameras of this machine with their formats, and exit.",
        ),
    ] = False,
) -> None:
    """Outline polyps on a live feed.

    Every frame is displayed immediately. Inference runs on the newest frame available, and contours follow the tissue
    to the displayed frame. A lost source is reconnected. Keys: A acknowledge an alert, M missed polyp, F false alarm,
    O overlay, S side by side, P operating point, + and - threshold, N snapshot, R record, X full screen, Q quit.
    Research software, not a medical device.
    """
    from polypstream.realtime.inference.shared import SharedSegmenter
    from polypstream.realtime.live.deadline import within_deadline
    from polypstream.realtime.live.pipeline import LivePipeline
    from polypstream.realtime.live.recording.recorder import Record, SessionRecorder
    from polypstream.realtime.live.recording.review_export import ModelFacts
    from polypstream.realtime.live.session import Session
    from polypstream.realtime.live.sources import AtEnd, RtspTransport, SourceConfig, source_from_address
    from polypstream.realtime.live.tracker import Tracker, TrackerConfig
    from polypstream.realtime.live.viewers.alerts import AlertConfig
    from polypstream.realtime.live.viewers.viewer import Commands
    from polypstream.realtime.outlines.drawing import MarkerStyle
    from polypstream.scheduling import live_inference_threads, short_switch_interval

    page, alerts = None, AlertConfig(after_s=alert_after, rearm_s=alert_rearm, quiet_s=alert_quiet, sound=alert_sound)
    if view == "page" or serve is not None or public_url is not None:
        page = page_config(
            serve or "127.0.0.1:8765",
            token=token,
            token_file=token_file,
            view_token_file=view_token_file,
            public_url=public_url,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        page = replace(page, label=label, alerts=alerts, max_width=page_width, quality=page_quality)
    source_config = SourceConfig(
        device_size=_size(device_size, "--device-size"),
        device_rate=_rate(device_rate),
        device_format=device_format,
        rtsp_transport=RtspTransport(rtsp_transport),
        at_end=AtEnd.LOOP if loop else AtEnd.STOP,
    )
    feeds = [source_from_address(_with_credentials(each, credentials_file), source_config) for each in source]
    _check_several(
        len(feeds), view=view if page is None else "page", push=(*(push or ()), *(() if ndi is None else (ndi,)))
    )
    segmenter = open_segmenter(
        model, backend, url=url, is_live=True, threads=live_inference_threads(), batches=len(feeds) > 1
    )
    if len(feeds) == 1:
        segmenter = within_deadline(segmenter, model, deadline_ms=deadline_ms, on_notice=say)
    contract = segmenter.contract
    point = contract.operating_point(operating_point)
    with ExitStack() as opened:
        senders = opened.enter_context(
            event_outputs(
                webhook=webhook,
                webhook_secret_file=webhook_secret_file,
                mqtt=mqtt,
                mqtt_credentials_file=mqtt_credentials_file,
                on_notice=say,
            )
        )
        metrics = None if metrics_port is None else opened.enter_context(metrics_at(metrics_port, on_notice=say))
        shared = opened.enter_context(SharedSegmenter(segmenter)) if len(feeds) > 1 else None
        hub = None if shared is None or page is None else opened.enter_context(_grid(page, count=len(feeds)))
        streams: list[Stream] = []
        for number, feed in enumerate(feeds, start=1):
            commands = Commands()
            tracker = Tracker(TrackerConfig(operating_point=point, fade_ms=fade_ms))
            if threshold is not None:
                tracker.set_threshold(threshold)
            lane = None if shared is None else shared.lane()
            pipeline = (
                LivePipeline(feed, segmenter, tracker)
                if lane is None
                else LivePipeline(feed, lane, tracker, turn=lane.turn)
            )
            receivers: list[EventReceiver] = [*senders]
            folder = output if lane is None else output / f"stream-{number}"
            recorder = SessionRecorder(
                folder,
                feed,
                record=Record(record),
                style=MarkerStyle(),
                on_notice=say,
                on_event=partial(publish_to, receivers, stream=None if lane is None else number),
            )
            viewers: list[Viewer] = []
            for viewer in _viewers(
                view,
                page,
                commands,
                alerts=alerts,
                source=feed.label,
                recorder=recorder,
                virtual_camera=virtual_camera,
                hub=hub,
            ):
                opened.callback(viewer.close)
                viewers.append(viewer)
            if metrics is not None:
                counted = metrics.stream(folder=folder, viewers=partial(open_pages, viewers[0]))
                viewers.append(counted)
                receivers.append(counted)
            pushed = opened.enter_context(
                pushes(
                    [url.replace("{stream}", str(number)) for url in push or ()],
                    size=_size(push_size, "--push-size"),
                    bitrate_kbps=push_bitrate,
                    credentials_file=push_credentials_file,
                    on_notice=say,
                )
            )
            named = None if ndi is None else ndi.replace("{stream}", str(number))
            sources = opened.enter_context(ndi_sources(named, on_notice=say))
            session = Session(
                feed,
                pipeline,
                viewers=[*viewers, *pushed, *sources],
                outputs=[*pushed, *sources, *(senders if number == 1 else ())],
                commands=commands,
                recorder=recorder,
                operating_points=contract.operating_points,
                model=ModelFacts(
                    name=f"{contract.name} {contract.version} ({contract.precision})", backend=segmenter.backend
                ),
                label=label,
                on_notice=partial(_say_of, feed.label),
            )
            streams.append(
                Stream(name=feed.label, session=session, viewer=viewers[0], commands=commands, recorder=recorder)
            )
        with short_switch_interval(), ended_by_signals(partial(_end, streams)):
            names = ", ".join(stream.name for stream in streams)
            say(f"watching {names}; Ctrl-C ends the session and completes its files")
            run_streams(streams, record=record_now, on_notice=say)


def _list_devices() -> None:
    """Print the cameras of this machine."""
    from polypstream.realtime.live.sources.device import capture_devices, gstreamer_devices

    cameras = capture_devices()
    for camera in cameras:
        typer.echo(f"{camera.path}  {camera.name}  {camera.problem or ', '.join(camera.formats)}")
    if not cameras:
        typer.echo("no cameras at /dev/video*")
    for name in gstreamer_devices():
        typer.echo(f"GStreamer: {name}")
    raise typer.Exit


def _check_several(count: int, *, view: str, push: "Sequence[str]") -> None:
    """Reject options that do not fit several sources."""
    if count < 2:
        return
    if view == "window":
        raise ConfigError("a window shows one source; use --serve or --view none with several")
    if any("{stream}" not in url for url in push):
        raise ConfigError("several sources cannot be sent to one address or name; write {stream} for the number")


def _with_credentials(source: str, file: Path | None) -> str:
    """Add the credentials from a file or the environment, if any, to the source."""
    from polypstream.realtime.live.sources.config import with_credentials

    credentials = secret_of(file, CREDENTIALS_VARIABLE)
    return with_credentials(source, credentials) if credentials else source


def _size(text: str | None, option: str) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not width.isdecimal() or not height.isdecimal():
        raise typer.BadParameter(f"'{text}' is not WxH, such as 1920x1080", param_hint=option)
    return int(width), int(height)


def _rate(text: str | None) -> Fraction | None:
    try:
        return None if text is None else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"'{text}' is not a number of frames per second", param_hint="--device-rate") from None


def _viewers(
    view: str,
    config: "PageConfig | None",
    commands: "Commands",
    *,
    alerts: "AlertConfig",
    source: str,
    recorder: "SessionRecorder",
    virtual_camera: bool,
    hub: "Page | None",
) -> "Iterator[Viewer]":
    """Yield the requested viewers, created on demand; the one with the display comes first."""
    if config is not None:
        from polypstream.realtime.live.viewers.page import Page

        page = Page(config, commands, source=source, record=lambda: recorder.opened_record, on_notice=say, hub=hub)
        yield page
        if hub is None:
            say_address(page, config)
    elif view == "window":
        from polypstream.realtime.live.viewers.window import Window, WindowConfig

        yield Window(WindowConfig(alerts=alerts), commands)
    else:
        from polypstream.realtime.live.viewers.viewer import HeadlessViewer

        yield HeadlessViewer()
    if virtual_camera:
        from polypstream.realtime.live.viewers.virtual_camera import VirtualCamera

        yield VirtualCamera(on_stopped=say)


@contextmanager
def _grid(config: "PageConfig", *, count: int) -> "Iterator[Page]":
    """Serve the page that shows all streams."""
    from polypstream.realtime.live.viewers.page import Page
    from polypstream.realtime.live.viewers.viewer import Commands

    config = replace(config, max_viewers=min(count * config.max_viewers, 1000))
    with Page(config, Commands(), on_notice=say) as hub:
        say_address(hub, config)
        yield hub


def _end(streams: "Sequence[Stream]") -> None:
    from polypstream.realtime.live.viewers.viewer import Action

    for stream in streams:
        stream.commands.send(Action.QUIT)


def _say_of(name: str, line: str) -> None:
    say(f"{name}: {line}")
