"""Automatic backend: runs the fastest one, and replaces it by the next if it fails."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Probability, Rgb
from polypstream.errors import BackendError, ModelError, PolypstreamError
from polypstream.realtime.inference.base import BatchSegmenter, ContractSize, checked_image, reason_of
from polypstream.scheduling import shares_of_cores, usable_cores

if TYPE_CHECKING:
    from polypstream.realtime.inference.segmenter import Segmenter

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A possible replacement backend."""

    name: str
    open: "Callable[[int | None], Segmenter]"
    """Opens the model with a number of CPU threads, None for all cores; may raise anything."""


@dataclass(kw_only=True)
class Notices:
    """Notices about the selection of the backend, without duplicates; may grow during inference."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Append a line unless it exists."""
        if line not in self.lines:
            self.lines.append(line)


class FallbackSegmenter(ContractSize):
    """Runs `first` until it fails, then the next candidate, and so on.

    The frame that a backend failed on is inferred again by its replacement, so none is lost. Each replacement is a
    warning in the log and a line in `notices`. If the last candidate fails, its error is raised.
    """

    def __init__(
        self, first: "Segmenter", rest: Sequence[Candidate], *, notices: Notices, threads: int | None = None
    ) -> None:
        self.contract = first.contract
        self._current, self._rest, self._threads = first, list(rest), threads
        self._notices = notices
        self._is_entered = False

    @property
    def backend(self) -> str:
        """Name of the backend in use."""
        return self._current.backend

    @property
    def notices(self) -> tuple[str, ...]:
        """Rejected backends and the one in use, one line each."""
        return tuple(self._notices.lines)

    def __enter__(self) -> Self:
        try:
            self._current.__enter__()
        except Exception as error:  # noqa: BLE001 - a runtime fails with exceptions of any class
            self._replace(error)
        self._is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_entered:
            self._is_entered = False
            self._current.__exit__(kind, error, trace)

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3)."""
        image = checked_image(rgb, self.contract)
        while True:
            try:
                return self._current.segment(image)
            except Exception as error:  # noqa: BLE001 - a runtime fails with exceptions of any class
                self._replace(error)

    @property
    def largest_batch(self) -> int:
        """That of the backend in use; 1 if it takes no batches."""
        return self._current.largest_batch if isinstance(self._current, BatchSegmenter) else 1

    def segment_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, height, width) of n uint8 RGB images (n, height, width, 3).

        Raises what the backend raises: only `segment` replaces it, since a batch may fail where single images do not.
        """
        if isinstance(self._current, BatchSegmenter):
            return self._current.segment_batch(images)
        return np.stack([self.segment(image) for image in images])

    def in_parallel(self) -> "Sequence[FallbackSegmenter]":
        """One segmenter per parallel segmenter of the backend; the same objects on each call."""
        return self._lanes

    @cached_property
    def _lanes(self) -> "Sequence[FallbackSegmenter]":
        parallel = self._current.in_parallel()
        if len(parallel) == 1:
            return (self,)
        shares = shares_of_cores(self._threads or usable_cores())
        return [
            FallbackSegmenter(each, self._rest, notices=self._notices, threads=shares[number % len(shares)])
            for number, each in enumerate(parallel)
        ]

    def _replace(self, error: Exception) -> None:
        """Open and enter the next candidate that works; raises `error` if there is none."""
        failed = self._current
        with suppress(Exception):  # its resources may be invalid already; memory must be freed for the replacement
            failed.__exit__(type(error), error, error.__traceback__)
        while self._rest:
            candidate = self._rest.pop(0)
            try:
                replacement = candidate.open(self._threads)
                if (replacement.height, replacement.width) != (self.height, self.width):
                    raise ModelError(f"its input is {replacement.width}x{replacement.height}")
                replacement.__enter__()
            except Exception as problem:  # noqa: BLE001 - as above
                self._notices.add(f"backend {candidate.name} cannot replace {failed.backend}: {reason_of(problem)}")
                continue
            self._current = replacement
            notice = f"backend {failed.backend} failed ({reason_of(error)}); continuing with {candidate.name}"
            self._notices.add(notice)
            LOG.warning(notice)
            return
        self._is_entered = False
        if isinstance(error, PolypstreamError):
            raise error
        raise BackendError(f"backend {failed.backend} failed: {reason_of(error)}") from error
