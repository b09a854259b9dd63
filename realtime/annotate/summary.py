"""Summary of an annotated recording, the JSON file next to the records: video, model, settings and polyp tracks.

Records and summary suffice for every export, so that formats can be converted without the model.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from polypstream.errors import DatasetError
from polypstream.files import write_atomically
from polypstream.realtime.annotate.tracks import PolypTrack
from polypstream.realtime.video.container import VideoInfo
from polypstream.realtime.video.damage import Damage

FORMAT = 1
"""Format version; increased on incompatible changes."""
SUFFIX = "_summary.json"
RECORDS_SUFFIX = "_polyps.jsonl"


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """Properties of a video that exports need."""

    name: str
    """File name without its folder."""
    width: int
    """Width of a decoded frame, before rotation and sample aspect ratio."""
    height: int
    sample_aspect_ratio: Fraction
    """Ratio of displayed pixel width to height."""
    rotation: int
    """Degrees by which players rotate the frame counterclockwise."""
    frames: int
    """Number of frames, which is the number of records."""
    average_rate: Fraction | None
    """Frames per second as stated by the container."""
    time_base: Fraction
    """Seconds per unit of presentation time."""
    duration_s: float | None
    codec: str
    is_constant_rate: bool
    """Whether frames are equally spaced, to within one unit of the time base."""

    @classmethod
    def of(cls, info: VideoInfo, *, frames: int, is_constant_rate: bool) -> "VideoFacts":
        """Properties of a video that has been read to its end."""
        return cls(
            name=info.path.name,
            width=info.width,
            height=info.height,
            sample_aspect_ratio=info.sample_aspect_ratio,
            rotation=info.rotation,
            frames=frames,
            average_rate=info.average_rate,
            time_base=info.time_base,
            duration_s=info.duration_s,
            codec=info.codec,
            is_constant_rate=is_constant_rate,
        )


@dataclass(frozen=True, kw_only=True)
class Deidentification:
    """Measures of de-identification, one line each."""

    done: tuple[str, ...]
    limits: tuple[str, ...]
    """What cannot be guaranteed."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One annotated recording as a whole."""

    video: VideoFacts
    model: str
    """Name and version of the weights."""
    software: str
    """Version of polypstream."""
    backend: str
    threshold: float
    tracks: tuple[PolypTrack, ...]
    frames_with_polyp: int
    min_peak: float = 0.0
    """Probability that a region had to reach somewhere."""
    notices: tuple[str, ...] = ()
    damage: tuple[Damage, ...] = ()
    """Intervals of the source that could not be decoded."""
    is_visibility_measured: bool = False
    """Whether records state where the view was blurred, red or outside the body."""
    deidentification: Deidentification | None = None
    """None if the results are not de-identified."""
    format: int = FORMAT


def summary_path(records: Path) -> Path:
    """Path of the summary that belongs to a records file."""
    name = records.name.removesuffix(RECORDS_SUFFIX) if records.name.endswith(RECORDS_SUFFIX) else records.stem
    return records.with_name(f"{name}{SUFFIX}")


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary atomically. Raises `OutputError`."""
    values = {**asdict(summary), "tracks": [_plain_track(track) for track in summary.tracks]}
    write_atomically(path, json.dumps(values, indent=1, default=_plain) + "\n")


def read_summary(path: Path) -> Summary:
    """Read a summary. Raises `DatasetError` if it is missing, damaged or of a newer version."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise DatasetError(
                f"{path} has format {values['format']}, this software reads {FORMAT}; update polypstream"
            )
        video = values["video"]
        for name in ("sample_aspect_ratio", "time_base", "average_rate"):
            video[name] = None if video[name] is None else Fraction(video[name])
        known = {field.name for field in fields(PolypTrack)}
        tracks = [PolypTrack(**{k: v for k, v in track.items() if k in known}) for track in values["tracks"]]
        facts = VideoFacts(**video)
        return Summary(
            **{
                **values,
                "video": facts,
                "tracks": tuple(tracks),
                "notices": tuple(values["notices"]),
                "deidentification": _deidentification(values.get("deidentification")),
                "damage": tuple(Damage(**each) for each in values.get("damage", ())),
            },
        )
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); it is written next to the records by polypstream annotate"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not a summary of polypstream annotate ({error}); annotate it again") from None


def _deidentification(values: dict[str, list[str]] | None) -> Deidentification | None:
    if values is None:
        return None
    return Deidentification(done=tuple(values["done"]), limits=tuple(values["limits"]))


def is_constant_rate(pts: Sequence[int]) -> bool:
    """Whether presentation times, in units of the time base, are equally spaced, to within one unit."""
    steps = [after - before for before, after in pairwise(pts)]
    return not steps or max(steps) - min(steps) <= 1


def _plain(value: object) -> object:
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _plain_track(track: PolypTrack) -> dict[str, object]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(track).items()}
