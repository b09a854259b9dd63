"""The progress of a build, derived from TensorRT's nested phases, and its cancellation."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from polypstream.realtime.inference.tensorrt import api


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """Progress of a build."""

    phase: str
    """TensorRT's name of the current phase."""
    fraction: float
    """Fraction done, 0 to 1; never decreases."""


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class ProgressReport:
    """Sums up the phases for a callback; stores its exceptions, which must not reach TensorRT's C++."""

    def __init__(self, on_progress: Callable[[BuildProgress], None] | None) -> None:
        self._on_progress = on_progress
        self._lock = Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0
        self._error: BaseException | None = None

    def monitor(self, module: "api.Module") -> "api.IProgressMonitor":
        """The object that TensorRT calls, from any thread."""
        base: Any = module.IProgressMonitor
        report = self

        class Monitor(base):  # type: ignore[misc]
            """Forwards every call; must not raise."""

            def __init__(self) -> None:
                base.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                report.update(phase_name, started=_Phase(parent_phase, num_steps))

            def step_complete(self, phase_name: str, step: int) -> bool:
                return report.update(phase_name, done=step + 1)

            def phase_finish(self, phase_name: str) -> None:
                report.update(phase_name, done=None)

        return cast("api.IProgressMonitor", Monitor())

    def raise_again(self) -> None:
        """Raise the exception of the callback, if there was one."""
        if self._error is not None:
            raise self._error

    def update(self, name: str, *, started: _Phase | None = None, done: int | None = 0) -> bool:
        """Record that a phase started, has `done` steps behind it, or ended (None); returns whether to continue."""
        with self._lock:
            try:
                if self._error is None and (started or name in self._phases):
                    self._record(name, started, done)
            except BaseException as error:  # noqa: BLE001 - raised again once TensorRT has returned
                self._error = error
            return self._error is None

    def _record(self, name: str, started: _Phase | None, done: int | None) -> None:
        phase = self._phases.setdefault(name, started or _Phase(None, 0))
        if done is None:
            del self._phases[name]
            now = 0.0 if phase.parent else 1.0
        else:
            phase.done = max(phase.done, done)
            now = max((self._of(each) for each, top in self._phases.items() if not top.parent), default=0.0)
        self._fraction = max(self._fraction, now)
        if self._on_progress is not None:
            self._on_progress(BuildProgress(phase=name, fraction=self._fraction))

    def _of(self, name: str) -> float:
        """The fraction of a phase, with that of the phases within its current step."""
        inner = max((self._of(each) for each, phase in self._phases.items() if phase.parent == name), default=0.0)
        return min(1.0, (self._phases[name].done + inner) / max(1, self._phases[name].steps))
