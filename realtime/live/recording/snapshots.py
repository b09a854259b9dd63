"""Snapshots: the original frame, the frame with markers, and a JSON description."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic, time

import av
import cv2
from av.video.reformatter import Interpolation

from polypstream.errors import OutputError
from polypstream.files import OnStopped, saving_error
from polypstream.realtime.annotate.records import record_of
from polypstream.realtime.live.display_frame import DisplayFrame, drawable, marked
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.video.color import scaler_matrix
from polypstream.realtime.video.rotation import Rotation, rotation_of

_WAITING = 4


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Files and polyps of one snapshot."""

    untouched: Path
    marked: Path
    record: Path
    """In pixels of the saved images, which are upright; `pixel_aspect` is the width of these pixels by their height."""


class Snapshots(Background[DisplayFrame]):
    """Writes snapshots to a folder in a separate thread. Use as a context manager.

    `on_saved` is called with each snapshot and its log event. Nothing raises in the caller's thread: if a snapshot
    cannot be saved, `on_failed` is called with the reason, and the next one is tried again. At most four are buffered.
    """

    def __init__(
        self, folder: Path, style: MarkerStyle, *, on_saved: Callable[[Snapshot, Event], None], on_failed: OnStopped
    ) -> None:
        self._folder, self._style = folder, style
        self._on_saved, self._on_failed = on_saved, on_failed
        super().__init__("snapshots", capacity=_WAITING, on_stopped=on_failed)

    def take(self, item: DisplayFrame) -> None:
        """Save a frame."""
        dropped = self.dropped
        self._give(item)
        if self.dropped > dropped:
            self._on_failed("a snapshot was not saved: the disk is too slow for so many; wait a moment and try again")

    def _work(self, items: Iterator[DisplayFrame]) -> None:
        for item in items:
            try:
                snapshot = self._saved(item)
            except OutputError as error:
                self._on_failed(str(error))
                continue
            frame, files = item.frame, {"untouched": snapshot.untouched.name, "marked": snapshot.marked.name}
            event = Event(kind=EventKind.SNAPSHOT, at=frame.captured_at, pts_s=frame.pts_s, details=files)
            self._on_saved(snapshot, event)

    def _saved(self, item: DisplayFrame) -> Snapshot:
        picture, rotation, aspect = item.frame.picture, rotation_of(item.frame), item.frame.sample_aspect_ratio
        stem = self._stem(item.frame.captured_at)
        snapshot = Snapshot(
            untouched=self._folder / f"{stem}.png",
            marked=self._folder / f"{stem}_marked.png",
            record=self._folder / f"{stem}.json",
        )
        upright = [rotation.polyp(marker.polyp, width=picture.width, height=picture.height) for marker in item.markers]
        record = record_of(item.frame, upright) | {
            "pixel_aspect": float(1 / aspect if rotation.swaps_axes else aspect),
            "identities": [marker.identity for marker in item.markers],
            "light": item.status.light.value,
            "reason": item.status.reason,
        }
        _save(snapshot.untouched, _png(picture, rotation))
        _save(snapshot.marked, _png(marked(drawable(picture), item.markers, self._style), rotation))
        _save(snapshot.record, json.dumps(record, indent=1).encode())
        return snapshot

    def _stem(self, captured_at: float) -> str:
        moment = datetime.fromtimestamp(time() - (monotonic() - captured_at))
        return moment.strftime("snapshot_%Y-%m-%d_%H-%M-%S-%f")[:-3]


def _png(picture: av.VideoFrame, rotation: Rotation) -> bytes:
    """Encode an image as displayed (upright) without loss."""
    bgr = picture.reformat(
        format="bgr24",
        src_colorspace=scaler_matrix(picture),
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
    )
    return cv2.imencode(".png", rotation.image(bgr.to_ndarray()), [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes()


def _save(path: Path, content: bytes) -> None:
    """Write a complete file or none."""
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
