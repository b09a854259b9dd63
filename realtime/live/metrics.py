"""Prometheus metrics of a live session, served on the machine itself; needs the extra `[metrics]`.

Delays and counts are exact: a scraper works out rates and percentiles. The fps gauges are the session's own.
"""

from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Self

from polypstream.errors import ConfigError, MissingExtraError, SinkError
from polypstream.realtime.live.shown import Light, LiveFrame, Status
from polypstream.realtime.live.viewing import Gauges

LOOPBACK = "127.0.0.1"
_VIDEO_BUCKETS_S = (0.001, 0.002, 0.003, 0.004, 0.005, 0.00575, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25)
"""5.75 ms is what the certified reference device allows itself."""
_MARKER_BUCKETS_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2, 0.3, 0.5, 1.0, 2.0)
"""120 ms likewise."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Where the metrics are served."""

    port: int = 9464
    """0 for any that is free."""
    host: str = LOOPBACK
    """Anything else lets other machines read them."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"the port is {self.port}; give one from 1 to 65535, or 0 for any that is free")


class MetricsViewer:
    """A viewer that counts instead of showing, and serves what it has counted at `address`. A context manager.

    Raises `MissingExtraError`, or `SinkError` where the port is taken.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, start_http_server
        except ImportError:
            raise MissingExtraError("serving metrics", "metrics") from None
        config = config or MetricsConfig()
        self.registry = CollectorRegistry()
        registry = self.registry
        self._frames = Counter("polypstream_frames", "Frames shown.", registry=registry)
        self._polyps = Counter("polypstream_polyp_frames", "Frames shown with a marker.", registry=registry)
        self._reconnects = Counter("polypstream_reconnects", "Times the picture came back.", registry=registry)
        self._dropped = Gauge("polypstream_dropped_inference_frames", "Frames never judged.", registry=registry)
        self._fps_in = Gauge("polypstream_fps_in", "Frames per second from the source.", registry=registry)
        self._fps_inference = Gauge("polypstream_fps_inference", "Frames per second judged.", registry=registry)
        self._recording = Gauge("polypstream_recording", "1 while pictures are recorded.", registry=registry)
        self._threshold = Gauge("polypstream_threshold", "From this probability on: polyp.", registry=registry)
        self._light = Enum(
            "polypstream_light",
            "Whether the markers can be relied on.",
            states=[light.value for light in Light],
            registry=registry,
        )
        self._video_delay = Histogram(
            "polypstream_video_delay_seconds",
            "From capture to the viewers.",
            buckets=_VIDEO_BUCKETS_S,
            registry=registry,
        )
        self._marker_delay = Histogram(
            "polypstream_marker_delay_seconds",
            "From capture to the first showing of its markers.",
            buckets=_MARKER_BUCKETS_S,
            registry=registry,
        )
        self._light.state(Light.LOST.value)
        self._has_shown = self._is_lost = False
        self._evidence_at: float | None = None
        try:
            server, thread = start_http_server(config.port, config.host, registry=self.registry)
        except OSError as error:
            raise SinkError(
                f"metrics cannot be served on {config.host}:{config.port} ({error.strerror}); choose another port"
            ) from None
        self._server, self._thread = server, thread
        self.address = f"http://{config.host}:{server.server_port}/metrics"

    def show(self, shown: LiveFrame, gauges: Gauges) -> None:
        """Count a frame."""
        now, captured_at = monotonic(), shown.frame.captured_at
        self._has_shown = True
        self._frames.inc()
        if shown.markers:
            self._polyps.inc()
        if self._is_lost:
            self._reconnects.inc()
            self._is_lost = False
        self._video_delay.observe(now - captured_at)
        self._time_marker(shown, now)
        self._light.state(shown.status.light.value)
        self._dropped.set(gauges.dropped_inference_frames)
        self._fps_in.set(gauges.fps_in)
        self._fps_inference.set(gauges.fps_inference)
        self._recording.set(gauges.recording)
        self._threshold.set(gauges.threshold)

    def tell(self, status: Status) -> None:
        """Note how things stand without a frame."""
        self._light.state(status.light.value)
        if status.light is Light.LOST:
            self._is_lost = self._has_shown
            self._fps_in.set(0)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _time_marker(self, shown: LiveFrame, now: float) -> None:
        """Observe the delay of evidence that is shown for the first time."""
        if shown.evidence_age_s is None:
            return
        evidence_at = shown.frame.captured_at - shown.evidence_age_s
        if self._evidence_at is None or evidence_at > self._evidence_at + 1e-6:
            self._evidence_at = evidence_at
            self._marker_delay.observe(now - evidence_at)
