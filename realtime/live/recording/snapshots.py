"""Snapshots: the untouched frame, the same with its markers, and what was known of it, side by side on disk."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic, time

import av
import cv2
from av.video.reformatter import Interpolation

from polypstream.errors import SinkError
from polypstream.realtime.live.drawing import drawable, marked
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.failure import OnStopped, saving_error
from polypstream.realtime.live.shown import LiveFrame
from polypstream.realtime.live.turn import Turn, turn_of
from polypstream.realtime.overlay import MarkerStyle
from polypstream.realtime.preprocess import matrix_of
from polypstream.realtime.records import record_of

_WAITING = 4


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The files of one snapshot."""

    untouched: Path
    marked: Path
    record: Path
    """In pixels of the pictures beside it, which are upright; their width by their height is its `pixel_aspect`."""


class Snapshots(Background[LiveFrame]):
    """Writes snapshots into a folder, in a thread of its own. A context manager.

    `on_saved` is told of each, as an event for the log. Nothing raises in the caller's thread: `on_failed` is told
    why a snapshot could not be kept, and the next one is tried again. At most four wait.
    """

    def __init__(
        self, folder: Path, style: MarkerStyle, *, on_saved: Callable[[Snapshot, Event], None], on_failed: OnStopped
    ) -> None:
        self._folder, self._style = folder, style
        self._on_saved, self._on_failed = on_saved, on_failed
        super().__init__("snapshots", capacity=_WAITING, on_stopped=on_failed)

    def take(self, item: LiveFrame) -> None:
        """Keep this frame."""
        self._give(item)

    def _work(self, items: Iterator[LiveFrame]) -> None:
        for item in items:
            try:
                snapshot = self._saved(item)
            except SinkError as error:
                self._on_failed(str(error))
                continue
            frame, files = item.frame, {"untouched": snapshot.untouched.name, "marked": snapshot.marked.name}
            event = Event(kind=EventKind.SNAPSHOT, at=frame.captured_at, pts_s=frame.pts_s, details=files)
            self._on_saved(snapshot, event)

    def _saved(self, item: LiveFrame) -> Snapshot:
        picture, turn, aspect = item.frame.picture, turn_of(item.frame), item.frame.sample_aspect_ratio
        stem = self._stem(item.frame.captured_at)
        snapshot = Snapshot(
            untouched=self._folder / f"{stem}.png",
            marked=self._folder / f"{stem}_marked.png",
            record=self._folder / f"{stem}.json",
        )
        upright = [turn.polyp(marker.polyp, width=picture.width, height=picture.height) for marker in item.markers]
        record = record_of(item.frame, upright) | {
            "pixel_aspect": float(1 / aspect if turn.swaps_axes else aspect),
            "identities": [marker.identity for marker in item.markers],
            "light": item.status.light.value,
            "reason": item.status.reason,
        }
        _save(snapshot.untouched, _png(picture, turn))
        _save(snapshot.marked, _png(marked(drawable(picture), item.markers, self._style), turn))
        _save(snapshot.record, json.dumps(record, indent=1).encode())
        return snapshot

    def _stem(self, captured_at: float) -> str:
        moment = datetime.fromtimestamp(time() - (monotonic() - captured_at))
        return moment.strftime("snapshot_%Y-%m-%d_%H-%M-%S-%f")[:-3]


def _png(picture: av.VideoFrame, turn: Turn) -> bytes:
    """A picture as it is displayed, upright, encoded without loss."""
    bgr = picture.reformat(
        format="bgr24",
        src_colorspace=matrix_of(picture),
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
    )
    return cv2.imencode(".png", turn.image(bgr.to_ndarray()), [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes()


def _save(path: Path, content: bytes) -> None:
    """A whole file or none."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise saving_error(path, error) from error
