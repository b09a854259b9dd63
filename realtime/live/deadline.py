"""Deadline of the markers: how many threads the network needs to answer in time on this machine.

A live session reserves a core for the frames, so the network starts with one thread fewer than there are cores. Where
that is too slow, it takes more threads, as long as the frames do not suffer: they have precedence.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from polypstream.arrays import Probability, Rgb
from polypstream.errors import ConfigError
from polypstream.realtime.inference.base import ContractSize
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from polypstream.realtime.statistics import Delay
from polypstream.scheduling import live_inference_threads, usable_cores

MARKER_DEADLINE_MS, VIDEO_DEADLINE_MS = 120.0, 5.75
"""Delays that 99% of the frames should keep: from capture to the display of markers, and from decoding to display."""
SETTLE_S = 6.0
"""Seconds without another change after each change, and for which markers must be late before one: longer than the
window over which delays are measured, so that a single disturbance changes nothing."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 600.0, 4800.0
"""Time for which no more threads are tried after they delayed the frames; doubles each time. A trial delays some
frames for `SETTLE_S`, so that it must stay below 1% of the time."""
IN_TIME = 0.8
"""Fraction of the deadline that markers must keep before they count as in time again."""
TELL_AGAIN_S = 600.0
"""Minimum time between two notices that markers are late."""
THREADED_BACKENDS = ("onnxruntime", "openvino", "openvino-bf16")
"""Backends whose speed depends on the number of CPU threads."""


class ThreadControl:
    """Chooses the number of threads of the network from measured delays. It never reads a clock; not thread-safe.

    Args:
        threads: Number at the start.
        most: Maximum number.
        deadline_ms: Delay that 99% of the markers should keep, in milliseconds.
    """

    def __init__(self, *, threads: int, most: int, deadline_ms: float = MARKER_DEADLINE_MS) -> None:
        if not 0 < deadline_ms <= 10_000:
            raise ConfigError(f"the deadline is {deadline_ms:g} ms; it must be above 0 and at most 10000")
        self.deadline_ms = deadline_ms
        self._least, self._most, self._threads = threads, max(threads, most), threads
        self._settled_s = float("-inf")
        self._late_since_s: float | None = None
        self._retry_s, self._pause_s = float("-inf"), SHORTEST_PAUSE_S
        self._is_late = False

    @property
    def threads(self) -> int:
        """Number of threads that the network should have."""
        return self._threads

    @property
    def is_late(self) -> bool:
        """Whether markers miss the deadline and no more threads can help at present."""
        return self._is_late

    def observe(self, *, marker: Delay | None, video: Delay | None, at_s: float) -> bool:
        """Judge the delays of the last seconds.

        Args:
            marker: From capture to the display of the markers; None if nothing was inferred.
            video: From decoding to display; None if nothing was displayed.
            at_s: Time in monotonic seconds; must not decrease.

        Returns:
            Whether `threads` has changed.
        """
        if self._settled_s == float("-inf"):
            self._settled_s = at_s + SETTLE_S
        if at_s < self._settled_s:
            return False
        before = self._threads
        misses = marker is not None and marker.p99_ms > self.deadline_ms
        self._late_since_s = (at_s if self._late_since_s is None else self._late_since_s) if misses else None
        lasts = self._late_since_s is not None and at_s - self._late_since_s >= SETTLE_S
        may_rise = before < self._most and at_s >= self._retry_s
        if before > self._least and video is not None and video.p99_ms > VIDEO_DEADLINE_MS:
            self._threads -= 1
            self._retry_s, self._pause_s = at_s + self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        elif lasts and may_rise:
            self._threads += 1
        if misses and not may_rise and self._threads <= before:
            self._is_late = True
        elif marker is not None and marker.p99_ms <= IN_TIME * self.deadline_ms:
            self._is_late = False
        if self._threads != before:
            self._settled_s = at_s + SETTLE_S
        return self._threads != before


def within_deadline(
    segmenter: Segmenter,
    model: Path | None,
    *,
    deadline_ms: float,
    on_notice: Callable[[str], None] = lambda _: None,
) -> Segmenter:
    """Let the threads of a live session's network follow its delays.

    Args:
        segmenter: The network, opened with `live_inference_threads()`.
        model: Its ONNX file; None for the one in the package.
        deadline_ms: Delay that 99% of the markers should keep, in milliseconds; 0 leaves the network as it is.
        on_notice: Receives one line per change.

    Returns:
        The network; unchanged if its backend does not run on CPU threads.

    Raises:
        ConfigError: The deadline is negative or longer than 10 s.
    """
    if deadline_ms == 0:
        return segmenter
    control = ThreadControl(threads=live_inference_threads(), most=usable_cores(), deadline_ms=deadline_ms)
    if segmenter.backend not in THREADED_BACKENDS:
        return segmenter

    def opened(threads: int) -> Segmenter:
        return segmenter_from_onnx(model, backend=segmenter.backend, threads=threads)

    return AdaptiveSegmenter(segmenter, opened, control, on_notice=on_notice)


class AdaptiveSegmenter(ContractSize):
    """A network whose number of threads follows the delays of the session.

    The first segmenter stays open: it takes over again when fewer threads are wanted, or when one with more threads
    fails, since it may have other backends to fall back to. It offers no batches (`BatchSegmenter`): it serves a single
    stream, and backends that run on CPU threads have none.

    Args:
        segmenter: The network with the number of threads that `control` starts with.
        opened: Opens the same model in the same backend with another number of threads; may raise anything.
        control: Chooses the number of threads.
        on_notice: Receives one line per change.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        opened: Callable[[int], Segmenter],
        control: ThreadControl,
        *,
        on_notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.contract = segmenter.contract
        self._first = self._current = segmenter
        self._first_threads = self._threads = control.threads
        self._opened, self._control, self._on_notice = opened, control, on_notice
        self._is_fixed = False
        self._told_s = float("-inf")

    @property
    def backend(self) -> str:
        """Name of the backend in use."""
        return self._current.backend

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about the selection of the backend."""
        return self._first.notices

    @property
    def threads(self) -> int:
        """Number of threads in use."""
        return self._threads

    @property
    def is_late(self) -> bool:
        """Whether markers miss the deadline on this machine, whatever the number of threads."""
        return self._control.is_late

    def __enter__(self) -> Self:
        self._first.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._use(self._first, self._first_threads)
        self._first.__exit__(kind, error, trace)

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3)."""
        try:
            return self._current.segment(rgb)
        except Exception as error:
            if self._current is self._first:
                raise
            self._keep(f"the network failed with {self._threads} threads: {error}")
            return self._first.segment(rgb)

    def in_parallel(self) -> "tuple[AdaptiveSegmenter, ...]":
        """Only itself: a live session infers one frame after the other."""
        return (self,)

    def adapt(self, *, marker: Delay | None, video: Delay | None, at_s: float) -> None:
        """Change the number of threads if the delays require it; call it in the thread that infers."""
        if self._is_fixed or self._current.backend not in THREADED_BACKENDS:
            return
        was_late = self._control.is_late
        if self._control.observe(marker=marker, video=video, at_s=at_s):
            self._change(self._control.threads)
        elif self._control.is_late and not was_late and marker is not None and at_s >= self._told_s + TELL_AGAIN_S:
            self._told_s = at_s
            self._on_notice(
                f"99% of the markers are displayed within {marker.p99_ms:.0f} ms instead of "
                f"{self._control.deadline_ms:g} ms: this machine is too slow for the model"
            )

    def _change(self, threads: int) -> None:
        if threads == self._first_threads:
            self._use(self._first, threads)
        else:
            try:
                other = self._opened(threads)
                other.__enter__()
            except Exception as error:  # noqa: BLE001 - the session continues as it is
                self._keep(f"the network cannot be opened with {threads} threads: {error}")
                return
            self._use(other, threads)
        self._on_notice(f"the network now uses {threads} thread{'s' if threads > 1 else ''}, to keep the delays")

    def _keep(self, problem: str) -> None:
        """Return to the first segmenter for the rest of the session."""
        self._is_fixed = True
        self._use(self._first, self._first_threads)
        self._on_notice(f"{problem}; it keeps {self._threads}")

    def _use(self, segmenter: Segmenter, threads: int) -> None:
        before, self._current, self._threads = self._current, segmenter, threads
        if before is not self._first and before is not segmenter:
            with suppress(Exception):  # it may have failed, and is not needed any more
                before.__exit__(None, None, None)
