"""What was found, frame by frame, as JSON lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from polypstream.errors import SinkError
from polypstream.realtime.contours import Polyp
from polypstream.realtime.frame import Frame


def record_of(frame: Frame, polyps: Sequence[Polyp]) -> dict[str, object]:
    """One frame's record: index, pts_s, and each polyp's contour, box, area and mean probability, in source pixels."""
    return {
        "index": frame.index,
        "pts_s": round(frame.pts_s, 9),
        "polyps": [
            {
                "contour": [[round(float(x), 2), round(float(y), 2)] for x, y in polyp.contour],
                "box": [round(float(side), 2) for side in polyp.box],
                "area": round(polyp.area, 1),
                "mean_probability": round(polyp.mean_probability, 4),
            }
            for polyp in polyps
        ],
    }


class RecordWriter:
    """Writes one line per frame, under a `.partial` name until all are there.

    Leaving the `with` block through an error keeps the lines written so far under the partial name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial_path = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._lines = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial_path.open("w", encoding="utf-8")
        except OSError as error:
            raise _write_error(path, error) from None

    def write(self, frame: Frame, polyps: Sequence[Polyp]) -> None:
        """Append one frame."""
        try:
            self._file.write(json.dumps(record_of(frame, polyps), separators=(",", ":")) + "\n")
        except OSError as error:
            raise _write_error(self.path, error) from None
        self._lines += 1

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if error is None:
                self.partial_path.replace(self.path)
            elif self._lines == 0:
                self.partial_path.unlink(missing_ok=True)
        except OSError as failure:
            self.partial_path.unlink(missing_ok=True)
            if error is None:
                raise _write_error(self.path, failure) from None


def _write_error(path: Path, error: OSError) -> SinkError:
    return SinkError(f"cannot write {path}: {error.strerror}; free some space or choose another folder with --output")
