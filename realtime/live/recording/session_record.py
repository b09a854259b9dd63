"""Record of a session: its sightings with a frame of each, kept on the disk and changed by the review.

`sightings.json` and `sightings/001.jpg` are written in a separate thread after each change. Whatever the disk cannot
take yet is kept in memory and tried again.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from time import monotonic, time

import cv2
import numpy as np

from polypstream.arrays import Bgr, Contour
from polypstream.content import content_area, crop_of_area
from polypstream.errors import OutputError
from polypstream.files import write_atomically
from polypstream.realtime.live.display_frame import DisplayFrame, Marker
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.sightings import CURRENT_S, Kind, Sighting, SightingLog, Verdict
from polypstream.realtime.outlines.drawing import CASING_RGB, MarkerStyle
from polypstream.realtime.video.rotation import rotation_of

NAME, FOLDER = "sightings.json", "sightings"
FALSE_WITHIN_S = 10.0
"""Time after its last marker in which a sighting can be reported as false."""
THUMBNAIL_WIDTH = 240
_QUALITY, _THUMBNAIL_QUALITY = 95, 80
_WAITING = 12
_TICK_S = 2.0
_MOST_UNSAVED = 64
"""Frames that are kept in memory for a failing disk."""


@dataclass(frozen=True, kw_only=True)
class _Image:
    """Store a frame."""

    number: int
    shown: DisplayFrame
    marker: Marker | None


@dataclass(frozen=True, kw_only=True)
class _Changed:
    """Write the record, and draw the thumbnail of one sighting again."""

    number: int | None = None


class SessionRecord(Background[_Image | _Changed]):
    """The sightings of one session. Use as a context manager. May be called from any thread and never waits for disks.

    Args:
        folder: Folder of the session.
        style: Appearance of the markers.
        on_problem: Called with the reason when something cannot be saved, and with "" when it is saved again.
        sightings: Those of a session that has ended, with their frames in the folder.
        wall_s: Wall clock in seconds since 1970 at monotonic time 0; None for the present relation of the clocks.
        missing: What this folder lacks, for the viewers.
    """

    def __init__(
        self,
        folder: Path,
        style: MarkerStyle,
        *,
        on_problem: Callable[[str], None],
        sightings: Iterable[Sighting] = (),
        wall_s: float | None = None,
        missing: tuple[str, ...] = (),
    ) -> None:
        self._folder, self._style, self._on_problem = folder, style, on_problem
        self._wall_s = time() - monotonic() if wall_s is None else wall_s
        self._missing = missing
        self._log = SightingLog(sightings)
        self._lock = Lock()
        self._thumbnails: dict[int, bytes] = {}
        self._unsaved: dict[int, bytes] = {}
        self._tick_s = float("-inf")
        self._is_failing = False
        self.free_bytes: int | None = None
        """Free space of the session's disk; None if unknown."""
        super().__init__("record", capacity=_WAITING, on_stopped=on_problem)

    @property
    def revision(self) -> int:
        """Increases with every change of the record."""
        return self._log.revision

    def sightings(self) -> tuple[Sighting, ...]:
        """Return every sighting, oldest first."""
        return self._log.all()

    def show(self, shown: DisplayFrame) -> None:
        """Process a displayed frame."""
        at_s = shown.frame.captured_at
        for number, marker in self._log.show(shown.markers, at_s=at_s):
            self._give(_Image(number=number, shown=shown, marker=marker))
        self.tick(at_s)

    def tick(self, at_s: float) -> None:
        """Measure the free space and retry what could not be saved, every few seconds."""
        if at_s - self._tick_s >= _TICK_S:
            self._tick_s = at_s
            self._give(_Changed())

    def add_missed(self, shown: DisplayFrame) -> Sighting:
        """Add a polyp that was missed, with this frame."""
        sighting = self._log.add_missed(at_s=shown.frame.captured_at)
        self._give(_Image(number=sighting.number, shown=shown, marker=None))
        return sighting

    def report_false(self) -> Sighting | None:
        """Mark the newest polyp as reported false; None if none was marked recently."""
        sighting = self._log.report_false(at_s=monotonic(), within_s=FALSE_WITHIN_S)
        self._give(_Changed())
        return sighting

    def set_clip(self, number: int, clip: str) -> None:
        """Add a clip to a sighting."""
        self._log.change(number, clip=clip)
        self._give(_Changed())

    def review(self, number: int, verdict: Verdict, contour: Contour | None = None, note: str | None = None) -> bool:
        """Set the result of the review; a contour replaces the one that was found. False if there is no such sighting.

        Args:
            number: Number of the sighting.
            verdict: The result.
            contour: (N, 2) float32 in pixels of its frame when upright; None keeps the present one.
            note: What the user wrote about it; None keeps the present note.
        """
        present = self._log.get(number)
        if present is None or present.size is None or (contour is not None and len(contour) < 3):
            return False
        note = present.note if note is None else note
        if contour is None:
            self._log.change(number, verdict=verdict, note=note)
        else:
            contour = np.clip(contour, 0, np.array(present.size, np.float32)).astype(np.float32)
            self._log.change(
                number, verdict=verdict, note=note, contour=contour, is_corrected=True, image=max(present.image, 1) + 1
            )
        self._give(_Changed(number=number))
        return True

    def listing(self) -> dict[str, object]:
        """Return the record as JSON values, for viewers and for the file."""
        revision, now = self.revision, monotonic()
        sightings = [self._values(each, now) for each in self.sightings()]
        return {"revision": revision, "missing": list(self._missing), "sightings": sightings}

    def thumbnail(self, number: int) -> bytes | None:
        """Return a small JPEG image of a sighting with its contour; None before there is one."""
        if number not in self._thumbnails and (jpeg := self.image(number)) is not None:
            self._draw_thumbnail(number, _decoded(jpeg))  # of a session that has ended
        return self._thumbnails.get(number)

    def image(self, number: int) -> bytes | None:
        """Return the frame of a sighting as JPEG, without markers; None if there is none. Reads the disk."""
        with self._lock:
            unsaved = self._unsaved.get(number)
        if unsaved is not None:
            return unsaved
        sighting = self._log.get(number)
        if sighting is None or not sighting.image:
            return None
        try:
            return self.image_path(number).read_bytes()
        except OSError:
            return None

    def marked(self, number: int) -> bytes | None:
        """Return the frame of a sighting as JPEG with its contour; None if there is none. Reads the disk."""
        sighting, jpeg = self._log.get(number), self.image(number)
        if sighting is None or jpeg is None:
            return None
        return _jpeg(self._drawn(_decoded(jpeg), sighting.contour), 88)

    def image_path(self, number: int) -> Path:
        """Return the name of the file with the frame of a sighting."""
        return self._folder / FOLDER / f"{number:03}.jpg"

    def clip_path(self, number: int) -> Path | None:
        """Return the clip of a sighting; None if there is none."""
        sighting = self._log.get(number)
        return self._folder / sighting.clip if sighting is not None and sighting.clip else None

    def close(self) -> None:
        """Write everything that is still missing."""
        self._give(_Changed())
        super().close()

    def _work(self, items: Iterator[_Image | _Changed]) -> None:
        written = -1
        for item in items:
            if isinstance(item, _Image):
                self._store(item)
            elif item.number is not None and (jpeg := self.image(item.number)) is not None:
                self._draw_thumbnail(item.number, _decoded(jpeg))
            self._measure_space()
            revision = self.revision
            if (revision != written or self._is_failing) and self._save():
                written = revision

    def _store(self, item: _Image) -> None:
        """Encode a frame; the thumbnail is in memory from then on."""
        frame, rotation = item.shown.frame, rotation_of(item.shown.frame)
        image = np.ascontiguousarray(rotation.image(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)))
        height, width = image.shape[:2]
        contour = None
        if item.marker is not None:
            picture = frame.picture
            contour = rotation.contour(item.marker.polyp.contour, width=picture.width, height=picture.height)
        present = self._log.get(item.number)
        if present is None or present.is_corrected or present.verdict is not Verdict.OPEN:
            return  # a user has reviewed the frame that is stored
        options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
        jpeg = cv2.imencode(".jpg", image, options)[1].tobytes()
        with self._lock:
            self._unsaved[item.number] = jpeg
            if len(self._unsaved) > _MOST_UNSAVED:
                del self._unsaved[min(self._unsaved)]
        self._log.change(
            item.number,
            contour=contour,
            size=(width, height),
            image_s=frame.captured_at,
            image=present.image + 1,
        )
        self._draw_thumbnail(item.number, image)

    def _draw_thumbnail(self, number: int, image: Bgr) -> None:
        sighting = self._log.get(number)
        if sighting is None:
            return
        crop = crop_of_area(content_area(image))
        part = crop.of(self._drawn(image, sighting.contour))
        size = THUMBNAIL_WIDTH, max(1, round(part.shape[0] * THUMBNAIL_WIDTH / part.shape[1]))
        small = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
        self._thumbnails[number] = _jpeg(small, _THUMBNAIL_QUALITY)

    def _drawn(self, image: Bgr, contour: Contour | None) -> Bgr:
        """Draw a contour on a copy."""
        copy = np.ascontiguousarray(image.copy())
        if contour is not None:
            thickness = max(2, round(copy.shape[0] / 160))
            points = [np.rint(contour * 16).astype(np.int32)]
            cv2.polylines(copy, points, True, CASING_RGB[::-1], 2 * thickness, cv2.LINE_AA, shift=4)
            cv2.polylines(copy, points, True, self._style.rgb[::-1], thickness, cv2.LINE_AA, shift=4)
        return copy

    def _save(self) -> bool:
        """Write what is missing on the disk; False if that fails."""
        try:
            with self._lock:
                unsaved = dict(self._unsaved)
            for number, jpeg in unsaved.items():
                self.image_path(number).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.image_path(number), jpeg)
                with self._lock:
                    if self._unsaved.get(number) is jpeg:
                        del self._unsaved[number]
            if self.sightings():
                write_atomically(self._folder / NAME, json.dumps(self.listing(), indent=1) + "\n")
        except (OutputError, OSError) as error:
            if not self._is_failing:  # once, although it is tried again every few seconds
                self._on_problem(f"the record of the session could not be saved: {error}")
            self._is_failing = True
            return False
        if self._is_failing:
            self._is_failing = False
            self._on_problem("")
        return True

    def _measure_space(self) -> None:
        folder = self._folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        self.free_bytes = None
        with suppress(OSError):
            self.free_bytes = shutil.disk_usage(folder).free

    def _values(self, each: Sighting, now: float) -> dict[str, object]:
        return {
            "number": each.number,
            "kind": each.kind.value,
            "time": self._time(each.first_s),
            "duration_s": round(each.duration_s, 3),
            "marked_s": round(each.marked_s, 3),
            "tracks": list(each.tracks),
            "score": round(each.score, 4),
            "is_current": each.kind is Kind.POLYP and now - each.last_s < CURRENT_S,
            "is_reported_false": each.is_reported_false,
            "verdict": each.verdict.value,
            "is_corrected": each.is_corrected,
            "contour": None if each.contour is None else [[round(float(v), 1) for v in xy] for xy in each.contour],
            "size": each.size,
            "image": each.image,
            "image_time": self._time(each.image_s) if each.image else None,
            "has_clip": bool(each.clip),
            "clip": each.clip,
            "note": each.note,
        }

    def _time(self, at_s: float) -> str:
        return datetime.fromtimestamp(round(self._wall_s + at_s, 3), UTC).isoformat(timespec="milliseconds")


def _jpeg(image: Bgr, quality: int) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _decoded(jpeg: bytes) -> Bgr:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
