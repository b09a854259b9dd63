"""Prometheus metrics of live sessions, served over HTTP; requires the extra `[metrics]`.

Counts and delays are exact; Prometheus computes rates and percentiles from them. Every metric has the label `stream`,
the number of the stream within the process, from 1.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from polypstream.errors import ConfigError, MissingExtraError, OutputError
from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.viewers.viewer import LiveStatistics

if TYPE_CHECKING:
    from prometheus_client import Metric

LOOPBACK = "127.0.0.1"
_VIDEO_BUCKETS_S = (0.001, 0.002, 0.003, 0.004, 0.005, 0.00575, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25)
"""Includes 5.75 ms, the specification of the certified reference device."""
_MARKER_BUCKETS_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2, 0.3, 0.5, 1.0, 2.0)
"""Includes 120 ms, likewise."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Address of the metrics."""

    port: int = 9464
    """TCP port; 0 for any free one."""
    host: str = LOOPBACK
    """Any other address makes them readable from other machines."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"the port is {self.port}; use 1 to 65535, or 0 for any free one")


class Metrics:
    """Serves the metrics of all streams at `address`. Use as a context manager.

    Raises:
        MissingExtraError: prometheus_client is not installed.
        OutputError: The port is in use.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, start_http_server
        except ImportError:
            raise MissingExtraError("serving metrics", "metrics") from None
        config = config or MetricsConfig()
        self.registry = registry = CollectorRegistry()
        self._streams: list[MetricsViewer] = []
        labels = ("stream",)
        self.frames = Counter("polypstream_frames", "Displayed frames.", labels, registry=registry)
        self.marked = Counter("polypstream_marked_frames", "Displayed frames with a marker.", labels, registry=registry)
        self.reconnects = Counter("polypstream_reconnects", "Restored connections.", labels, registry=registry)
        self.alarms = Counter("polypstream_alarms", "Polyps that appeared.", labels, registry=registry)
        self.recording_failures = Counter(
            "polypstream_recording_failures", "Recordings that stopped because of an error.", labels, registry=registry
        )
        self.events = Counter("polypstream_events", "Events by kind.", (*labels, "event"), registry=registry)
        self.light = Enum(
            "polypstream_light",
            "Whether the markers are reliable.",
            labels,
            states=[light.value for light in Light],
            registry=registry,
        )
        self.video_delay = Histogram(
            "polypstream_video_delay_seconds",
            "Delay from capture to the viewers.",
            labels,
            buckets=_VIDEO_BUCKETS_S,
            registry=registry,
        )
        self.marker_delay = Histogram(
            "polypstream_marker_delay_seconds",
            "Delay from capture to the first display of its markers.",
            labels,
            buckets=_MARKER_BUCKETS_S,
            registry=registry,
        )
        build = Gauge("polypstream_build_info", "Version of polypstream.", ("version",), registry=registry)
        build.labels(version("polypstream")).set(1)
        registry.register(self)
        try:
            server, thread = start_http_server(config.port, config.host, registry=registry)
        except OSError as error:
            raise OutputError(
                f"metrics cannot be served on {config.host}:{config.port} ({error.strerror}); choose another port"
            ) from None
        self._server, self._thread = server, thread
        self.address = f"http://{config.host}:{server.server_port}/metrics"

    def stream(self, *, folder: Path | None = None, viewers: Callable[[], int] = lambda: 0) -> "MetricsViewer":
        """Add a stream.

        Args:
            folder: Where its files are saved; the free space there is a metric.
            viewers: Returns the number of open pages.
        """
        viewer = MetricsViewer(self, str(len(self._streams) + 1), folder=folder, viewers=viewers)
        self._streams.append(viewer)
        return viewer

    def collect(self) -> "Iterator[Metric]":
        """Yield what is read when the metrics are; called by the registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        inferences = CounterMetricFamily("polypstream_inferences", "Frames inferred.", labels=["stream"])
        skipped = CounterMetricFamily(
            "polypstream_frames_not_inferred", "Frames without inference, as a newer one came.", labels=["stream"]
        )
        unusable = CounterMetricFamily(
            "polypstream_frames_unusable", "Frames without visibility, not inferred.", labels=["stream"]
        )
        dropped = CounterMetricFamily("polypstream_frames_dropped", "Frames never displayed.", labels=["stream"])
        recording = GaugeMetricFamily("polypstream_recording", "1 while video is recorded.", labels=["stream"])
        saving = GaugeMetricFamily("polypstream_saving", "1 while all that should be is saved.", labels=["stream"])
        threshold = GaugeMetricFamily("polypstream_threshold", "Minimum probability of polyps.", labels=["stream"])
        threads = GaugeMetricFamily("polypstream_inference_threads", "CPU threads of the network.", labels=["stream"])
        late = GaugeMetricFamily(
            "polypstream_markers_late", "1 while markers miss the deadline at any number of threads.", labels=["stream"]
        )
        pages = GaugeMetricFamily("polypstream_viewers", "Open pages.", labels=["stream"])
        free = GaugeMetricFamily("polypstream_disk_free_bytes", "Free space for recordings.", labels=["stream"])
        names = ["stream", "kind", "output"]
        working = GaugeMetricFamily("polypstream_output_working", "1 while the receiver accepts.", labels=names)
        sent = CounterMetricFamily("polypstream_output_sent", "Frames or events accepted.", labels=names)
        lost = CounterMetricFamily("polypstream_output_dropped", "Frames or events never sent.", labels=names)
        failures = CounterMetricFamily("polypstream_output_failures", "Failed attempts.", labels=names)
        for viewer in self._streams:
            label, statistics = [viewer.name], viewer.statistics
            pages.add_metric(label, viewer.viewers())
            if (space := viewer.free_bytes()) is not None:
                free.add_metric(label, space)
            if statistics is None:
                continue
            inferences.add_metric(label, statistics.inferences)
            skipped.add_metric(label, statistics.dropped_inference_frames)
            unusable.add_metric(label, statistics.unusable_frames)
            dropped.add_metric(label, statistics.dropped_frames)
            recording.add_metric(label, statistics.recording)
            saving.add_metric(label, not statistics.saving_problem)
            threshold.add_metric(label, statistics.threshold)
            late.add_metric(label, statistics.is_late)
            if statistics.inference_threads is not None:
                threads.add_metric(label, statistics.inference_threads)
            for output in statistics.outputs:
                values = [viewer.name, output.kind, output.label]
                working.add_metric(values, output.is_working)
                sent.add_metric(values, output.sent)
                lost.add_metric(values, output.dropped)
                failures.add_metric(values, output.failures)
        yield from (inferences, skipped, unusable, dropped, recording, saving, threshold, pages, free)
        yield from (threads, late)
        yield from (working, sent, lost, failures)

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


class MetricsViewer:
    """A viewer that counts the frames of one stream; created by `Metrics.stream`."""

    def __init__(self, metrics: Metrics, name: str, *, folder: Path | None, viewers: Callable[[], int]) -> None:
        self._metrics, self.name, self._folder, self.viewers = metrics, name, folder, viewers
        self.statistics: LiveStatistics | None = None
        """The newest."""
        self._frames, self._marked = metrics.frames.labels(name), metrics.marked.labels(name)
        self._reconnects, self._alarms = metrics.reconnects.labels(name), metrics.alarms.labels(name)
        self._recording_failures = metrics.recording_failures.labels(name)
        self._video_delay, self._marker_delay = metrics.video_delay.labels(name), metrics.marker_delay.labels(name)
        self._light = metrics.light.labels(name)
        self._light.state(Light.LOST.value)
        self._has_shown = self._is_lost = False
        self._evidence_at: float | None = None

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        """Count a frame."""
        now, captured_at = monotonic(), shown.frame.captured_at
        self._has_shown, self.statistics = True, statistics
        self._frames.inc()
        if shown.markers:
            self._marked.inc()
        if self._is_lost:
            self._reconnects.inc()
            self._is_lost = False
        self._video_delay.observe(now - captured_at)
        self._time_marker(shown, now)
        self._light.state(shown.status.light.value)

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        """Record the status while there is no frame."""
        self.statistics = statistics
        self._light.state(status.light.value)
        if status.light is Light.LOST:
            self._is_lost = self._has_shown

    def publish(self, event: Event) -> None:
        """Count an event."""
        self._metrics.events.labels(self.name, event.kind.value).inc()
        if event.kind is EventKind.POLYP_APPEARED:
            self._alarms.inc()
        elif event.kind is EventKind.RECORDING_STOPPED and "reason" in event.details:
            self._recording_failures.inc()

    def free_bytes(self) -> int | None:
        """Free space where files are saved; None if it is unknown."""
        if self._folder is not None:
            for folder in (self._folder, *self._folder.absolute().parents):
                with suppress(OSError):
                    return shutil.disk_usage(folder).free
        return None

    def close(self) -> None:
        """Do nothing: `Metrics` serves the last values until it is closed."""

    def _time_marker(self, shown: DisplayFrame, now: float) -> None:
        """Record the delay of markers that are displayed for the first time."""
        if shown.inference_age_s is None:
            return
        evidence_at = shown.frame.captured_at - shown.inference_age_s
        if self._evidence_at is None or evidence_at > self._evidence_at + 1e-6:
            self._evidence_at = evidence_at
            self._marker_delay.observe(now - evidence_at)
