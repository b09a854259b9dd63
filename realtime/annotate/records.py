"""Records of a recording: reads and writes one JSON line per frame with its polyps."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from polypstream.errors import DatasetError, OutputError
from polypstream.files import UnfinishedFile, write_error
from polypstream.realtime.live.visibility import Visibility
from polypstream.realtime.outlines.contours import Polyp
from polypstream.realtime.video.frame import Frame


@dataclass(frozen=True, kw_only=True)
class FrameRecord:
    """The polyps of one frame, in source pixels."""

    index: int
    """Position of the frame in the recording, from 0."""
    pts_s: float
    """Presentation time in seconds."""
    polyps: tuple[Polyp, ...]
    tracks: tuple[int | None, ...]
    """Id of each polyp's track; None in records written without tracks."""
    interpolated: tuple[bool, ...]
    """Whether each contour was propagated from neighboring frames rather than detected in this one."""
    visibility: str = "clear"
    """Visibility of the frame, such as "blurred"; always "clear" if it was not measured."""
    start_offset_s: float = 0.0
    """Start of the source's clock in seconds."""


def record_of(
    frame: Frame,
    polyps: Sequence[Polyp],
    tracks: Sequence[int] | None = None,
    *,
    interpolated: Sequence[bool] | None = None,
    start_offset_s: float = 0.0,
    visibility: Visibility = Visibility.CLEAR,
) -> dict[str, object]:
    """Create the record of one frame as a JSON object.

    Args:
        frame: The frame; its index and presentation time are recorded.
        polyps: Polyps found in it, in source pixels.
        tracks: Id of each polyp's track; None if polyps are not tracked.
        interpolated: Whether each contour was propagated from neighboring frames; None if none was.
        start_offset_s: Start of the source's clock in seconds; recorded unless it is 0.
        visibility: Visibility of the frame; recorded unless it is clear.
    """
    ids = [{}] * len(polyps) if tracks is None else [{"track": each} for each in tracks]
    flags = [{"interpolated": True} if each else {} for each in interpolated or [False] * len(polyps)]
    return {
        "index": frame.index,
        "pts_s": round(frame.pts_s, 9),
        **({"start_offset_s": round(start_offset_s, 6)} if start_offset_s else {}),
        **({} if visibility is Visibility.CLEAR else {"visibility": visibility.name.lower()}),
        "polyps": [
            {
                **identity,
                "contour": np.round(polyp.contour.astype(np.float64), 2).tolist(),
                "box": [round(float(side), 2) for side in polyp.box],
                "area": round(polyp.area, 1),
                "mean_probability": round(polyp.score, 4),
                **flag,
            }
            for polyp, identity, flag in zip(polyps, ids, flags, strict=True)
        ],
    }


def read_records(path: Path) -> Iterator[FrameRecord]:
    """Read records line by line.

    Args:
        path: A file written by `RecordWriter`; an unfinished one is read up to its last complete line.

    Raises:
        DatasetError: The file cannot be read, or a line is not a record.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    return  # the process ended within this line
                try:
                    yield _record_from(json.loads(line))
                except (ValueError, KeyError, TypeError, IndexError) as error:
                    raise DatasetError(
                        f"line {number} of {path} is not a record of polypstream annotate ({error}); annotate it again"
                    ) from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a text file; give a _polyps.jsonl file") from None


def _record_from(values: dict[str, Any]) -> FrameRecord:
    found = values["polyps"]
    return FrameRecord(
        index=int(values["index"]),
        pts_s=float(values["pts_s"]),
        polyps=tuple(
            Polyp(
                contour=np.array(each["contour"], np.float32).reshape(-1, 2),
                box=(each["box"][0], each["box"][1], each["box"][2], each["box"][3]),
                area=float(each["area"]),
                score=float(each["mean_probability"]),
            )
            for each in found
        ),
        tracks=tuple(each.get("track") for each in found),
        interpolated=tuple(each.get("interpolated", False) for each in found),
        visibility=str(values.get("visibility", "clear")),
        start_offset_s=float(values.get("start_offset_s", 0.0)),
    )


class RecordWriter:
    """Writes one line per frame, each flushed immediately, under a `.partial` name until the file is complete.

    After an error in the `with` block, or the end of the process, the complete lines written so far remain under the
    partial name.

    Args:
        path: The finished file, such as `clip_polyps.jsonl`.
        start_offset_s: Start of the source's clock in seconds; part of each record unless it is 0.

    Raises:
        OutputError: If the file cannot be written, here or later.
    """

    def __init__(self, path: Path, *, start_offset_s: float = 0.0) -> None:
        self.path, self._start_offset_s = path, start_offset_s
        self._lines = 0
        try:
            self._file = UnfinishedFile(path)
        except OSError as error:
            raise write_error(path, error) from error

    def write(
        self,
        frame: Frame,
        polyps: Sequence[Polyp],
        tracks: Sequence[int] | None = None,
        *,
        interpolated: Sequence[bool] | None = None,
        visibility: Visibility = Visibility.CLEAR,
    ) -> None:
        """Append one frame; arguments as for `record_of`."""
        record = record_of(
            frame,
            polyps,
            tracks,
            interpolated=interpolated,
            start_offset_s=self._start_offset_s,
            visibility=visibility,
        )
        line = json.dumps(record, separators=(",", ":")) + "\n"
        try:
            self._file.write(line.encode())
        except OSError as error:
            raise self._error(error) from error
        self._file.checkpoint()
        self._lines += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._file.finish(rename=True)
            except OSError as failure:
                raise self._error(failure) from failure
        elif self._lines:
            self._file.close()
        else:
            self._file.discard()

    def _error(self, error: OSError) -> OutputError:
        text = str(write_error(self.path, error))
        if self._lines:
            text += f"; the part written so far is kept, with .partial in its name, in {self.path.parent}"
        return OutputError(text)
