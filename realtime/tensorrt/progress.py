"""The progress of a build, out of TensorRT's nested phases; and the way to end a build early."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, cast

from polypstream.realtime.tensorrt import api


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far a build is."""

    phase: str
    """What TensorRT is at, in its own words."""
    fraction: float
    """Of the whole, from 0 to 1; never less than told before."""


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0
    inner: float = 0.0
    """How far the step now under way is, as its own phases tell."""

    @property
    def fraction(self) -> float:
        return min(1.0, (self.done + self.inner) / max(1, self.steps))


class ProgressReport:
    """Adds the phases up and tells a callback; keeps what the callback raises, for TensorRT's C++ must not see it."""

    def __init__(self, on_progress: Callable[[BuildProgress], None] | None) -> None:
        self._on_progress = on_progress
        self._lock = Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0
        self._error: BaseException | None = None

    def monitor(self, module: api.Module) -> api.IProgressMonitor:
        """The object that TensorRT calls, from any of its threads."""
        base: Any = module.IProgressMonitor
        report = self

        class Monitor(base):  # type: ignore[misc]
            """Hands everything on; nothing may be raised here."""

            def __init__(self) -> None:
                base.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                report.guarded(report.start, phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return report.guarded(report.step, phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                report.guarded(report.finish, phase_name)

        return cast(api.IProgressMonitor, Monitor())

    def raise_again(self) -> None:
        """Raise what the callback raised, if it did."""
        if self._error is not None:
            raise self._error

    def guarded(self, work: Callable[..., None], *arguments: object) -> bool:
        """Whether to go on; False once anything was raised."""
        with self._lock:
            if self._error is None:
                try:
                    work(*arguments)
                except BaseException as error:  # noqa: BLE001 - raised again once TensorRT has returned
                    self._error = error
            return self._error is None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, within another or not."""
        self._phases[name] = _Phase(parent=parent, steps=steps)
        self._tell(name)

    def step(self, name: str, step: int) -> None:
        """Step number `step` of a phase, counted from 0, is done."""
        phase = self._phases.get(name)
        if phase is not None:
            phase.done, phase.inner = max(phase.done, step + 1), 0.0
            self._tell(name)

    def finish(self, name: str) -> None:
        """A phase ends, whether or not all of its steps were told."""
        phase = self._phases.pop(name, None)
        if phase is not None and phase.parent is None:
            self._fraction = 1.0
            self._call(name)

    def _tell(self, name: str) -> None:
        phase = self._phases[name]
        for _ in self._phases:  # at most as deep as there are phases, should names ever form a circle
            outer = self._phases.get(phase.parent or "")
            if outer is None:
                break
            outer.inner = phase.fraction
            phase = outer
        self._fraction = max(self._fraction, phase.fraction)
        self._call(name)

    def _call(self, name: str) -> None:
        if self._on_progress is not None:
            self._on_progress(BuildProgress(phase=name, fraction=self._fraction))
