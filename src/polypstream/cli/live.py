"""`polypstream live`: a feed as it comes, with contours on it."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from polypstream.cli.model import opened

if TYPE_CHECKING:
    from polypstream.realtime.live.session import Session, Summary
    from polypstream.realtime.live.viewers.page import PageConfig
    from polypstream.realtime.live.viewing import Commands, Viewer

console = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("live")(live)


def live(
    source: Annotated[
        str,
        typer.Argument(
            help="/dev/video0, an rtsp://, udp://, srt://, tcp:// or http:// address, or a file, played in real time.",
            show_default=False,
        ),
    ],
    view: Annotated[
        Literal["window", "page", "none"], typer.Option(help="Where to look: a window, a browser page, nowhere.")
    ] = "window",
    serve: Annotated[
        str | None,
        typer.Option(help="Serve the page at HOST:PORT; implies --view page.  (default: 127.0.0.1:8765)"),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="ONNX model.  (default: the one in the package)")] = None,
    backend: Annotated[str, typer.Option(help="Inference backend; polypstream doctor lists them.")] = "auto",
    operating_point: Annotated[
        Literal["sensitive", "specific"], typer.Option(help="More polyps, or fewer false alarms.")
    ] = "sensitive",
    threshold: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.999, help="Probability that counts as polyp.  (default: the operating point's)"),
    ] = None,
    fade_ms: Annotated[float, typer.Option(help="A marker is gone when its evidence is so old.")] = 250.0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for events, snapshots and recordings.")] = Path(
        "live"
    ),
    record: Annotated[
        Literal["feed", "overlay", "both"], typer.Option(help="What a recording holds: the feed untouched, or marked.")
    ] = "feed",
    record_now: Annotated[bool, typer.Option("--record-now", help="Record from the first picture on.")] = False,
    device_size: Annotated[str | None, typer.Option(help="What a capture device is asked for: WxH.")] = None,
    device_rate: Annotated[
        str | None, typer.Option(help="The same, in frames per second, such as 30 or 60000/1001.")
    ] = None,
    device_format: Annotated[str | None, typer.Option(help="The same: yuyv422, mjpeg, ….")] = None,
    rtsp_transport: Annotated[Literal["tcp", "udp"], typer.Option(help="How RTSP carries the video.")] = "tcp",
    virtual_camera: Annotated[
        bool, typer.Option("--virtual-camera", help="Offer the marked picture as a camera, for OBS and the like.")
    ] = False,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics on this machine's port.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin a file again at its end.")] = False,
) -> None:
    """Outline polyps on a live feed.

    The picture is shown at once; the network judges the newest frame it can, and its contours are carried to the frame
    on display. A lost source is waited for. Keys: O overlay, S side by side, P operating point, + and - threshold, N
    snapshot, R record, Q quit. Research software, not a medical device.
    """
    from polypstream.realtime.live.alarm import OPERATING_POINTS
    from polypstream.realtime.live.keeping import Keeper, Record
    from polypstream.realtime.live.pipeline import LivePipeline
    from polypstream.realtime.live.session import Session
    from polypstream.realtime.live.setup import live_threads, quick_switching
    from polypstream.realtime.live.sources import AtEnd, RtspTransport, SourceConfig, source_from_address
    from polypstream.realtime.live.tracker import Tracker, TrackerConfig
    from polypstream.realtime.live.viewing import Commands
    from polypstream.realtime.overlay import MarkerStyle

    commands = Commands()
    config = SourceConfig(
        device_size=_size(device_size),
        device_rate=_rate(device_rate),
        device_format=device_format,
        rtsp_transport=RtspTransport(rtsp_transport),
        at_end=AtEnd.LOOP if loop else AtEnd.STOP,
    )
    feed = source_from_address(source, config)
    segmenter = opened(model, backend, threads=live_threads())
    tracker = Tracker(TrackerConfig(operating_point=OPERATING_POINTS[operating_point], fade_ms=fade_ms))
    if threshold is not None:
        tracker.set_threshold(threshold)
    pipeline = LivePipeline(feed, segmenter, tracker)
    keeper = Keeper(output, feed, record=Record(record), style=MarkerStyle(), on_notice=_say)
    with ExitStack() as open_viewers:
        viewers: list[Viewer] = []
        for viewer in _viewers(view, serve, commands, virtual_camera=virtual_camera, metrics_port=metrics_port):
            open_viewers.callback(viewer.close)
            viewers.append(viewer)
        session = Session(feed, pipeline, viewers=viewers, commands=commands, keeper=keeper)
        with quick_switching(), _ended_by_signals(commands):
            _say(f"watching {feed.label}; Ctrl-C ends everything properly")
            summary = _run(session, viewers[0], record=record_now)
    _print(summary, keeper.folder)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not width.isdecimal() or not height.isdecimal():
        raise typer.BadParameter(f"'{text}' is not WxH, such as 1920x1080", param_hint="--device-size")
    return int(width), int(height)


def _rate(text: str | None) -> Fraction | None:
    try:
        return None if text is None else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"'{text}' is no number of frames per second", param_hint="--device-rate") from None


def _viewers(
    view: str, serve: str | None, commands: "Commands", *, virtual_camera: bool, metrics_port: int | None
) -> "Iterator[Viewer]":
    """Each viewer asked for, made when it is taken; first the one that users look at."""
    if serve is not None or view == "page":
        from polypstream.realtime.live.viewers.page import Page

        page = Page(_page_config(serve), commands)
        yield page
        _say(f"the page is at {page.url}")
    elif view == "window":
        from polypstream.realtime.live.viewers.window import Window, WindowConfig

        yield Window(WindowConfig(), commands)
    else:
        from polypstream.realtime.live.viewers.unseen import UnseenViewer

        yield UnseenViewer()
    if virtual_camera:
        from polypstream.realtime.live.virtual_camera import VirtualCamera

        yield VirtualCamera(on_stopped=_say)
    if metrics_port is not None:
        from polypstream.realtime.live.metrics import MetricsConfig, MetricsViewer

        metrics = MetricsViewer(MetricsConfig(port=metrics_port))
        yield metrics
        _say(f"metrics are at {metrics.address}")


def _page_config(serve: str | None) -> "PageConfig":
    from polypstream.realtime.live.viewers.page import PageConfig

    if serve is None:
        return PageConfig()
    host, _, port = serve.rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"'{serve}' is not HOST:PORT, such as 127.0.0.1:8765", param_hint="--serve")
    return PageConfig(host=host.strip("[]"), port=int(port))


def _run(session: "Session", viewer: "Viewer", *, record: bool) -> "Summary":
    """Run the session here, or beside a window, whose place is the main thread."""
    from polypstream.realtime.live.viewers.window import Window
    from polypstream.realtime.stage import Stages

    if not isinstance(viewer, Window):
        return session.run(record=record)
    summaries: list[Summary] = []
    stages = Stages(cancel=session.close)
    stages.start("session", lambda: summaries.append(session.run(record=record)))
    try:
        viewer.run()
    except BaseException:
        stages.cancel_and_join()
        raise
    stages.join()
    return summaries[0]


@contextmanager
def _ended_by_signals(commands: "Commands") -> Iterator[None]:
    """SIGINT and SIGTERM end the session as its user would: every file is finished."""
    from polypstream.realtime.live.viewing import Action

    def end(number: int, _: FrameType | None) -> None:
        _say(f"{signal.Signals(number).name}: ending")
        commands.send(Action.QUIT)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    console.print(escape(line), highlight=False, soft_wrap=True)


def _print(summary: "Summary", folder: Path) -> None:
    lost = f", the line was lost {summary.lines_lost} times" if summary.lines_lost else ""
    dropped = f", {summary.frames_not_shown} dropped" if summary.frames_not_shown else ""
    _say(
        f"{summary.frames} frames shown{dropped}, {summary.frames - summary.frames_not_judged} judged by the network, "
        f"{summary.polyps} alarms{lost}; events are in {folder}"
    )
