"""Folder of a session that has ended: what its files say, and what is missing in them.

`session.json` has what only the report shows besides sightings and events: settings, totals, delays and the times when
the light was not ready. It is written at the end of a session, so that the folder of a killed one lacks it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from time import monotonic, time

import cv2
import numpy as np

from polypstream.errors import ConfigError
from polypstream.files import write_atomically
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording import session_record
from polypstream.realtime.live.recording.journal import MOST_EVENTS, Journal, Sample, Span
from polypstream.realtime.live.recording.review_export import ModelFacts
from polypstream.realtime.live.recording.session_report import SessionFacts
from polypstream.realtime.live.recording.sightings import Kind, Sighting, Verdict

LOCK = ".session.lock"
"""Locked by the session, then by whoever reviews it."""
FACTS, EVENTS = "session.json", "events.jsonl"
_ENDED_ONLY = "delays and the times when the image was uncertain or lost are unknown"


@dataclass(frozen=True, kw_only=True)
class SessionFolder:
    """What the files of a session say. Times are monotonic seconds of this process."""

    path: Path
    wall_s: float
    """Wall clock in seconds since 1970 at monotonic time 0."""
    sightings: tuple[Sighting, ...]
    journal: Journal
    facts: SessionFacts
    is_complete: bool
    """Whether the facts were saved, so that the report can be written again without loss."""


def save_facts(folder: Path, facts: SessionFacts, journal: Journal) -> None:
    """Save what a later report needs besides sightings and events.

    Raises:
        OutputError: If the file cannot be written.
    """
    values = {
        "began_at": journal.began_at,
        "duration_s": journal.duration_s,
        "left_out": journal.left_out,
        "source": facts.source,
        "label": facts.label,
        "settings": dict(facts.settings),
        "totals": dict(facts.totals),
        "model": asdict(facts.model),
        "samples": [asdict(each) for each in journal.samples],
        "spans": [asdict(each) for each in journal.spans],
    }
    write_atomically(folder / FACTS, json.dumps(values) + "\n")


def read_session(path: Path) -> SessionFolder:
    """Read the folder of a session. Whatever is missing or damaged is named in `facts.missing`.

    Raises:
        ConfigError: There is no session in this folder.
    """
    _check(path)
    wall_s = time() - monotonic()
    missing: list[str] = []
    sightings = tuple(_sightings(path, wall_s, missing))
    lines = list(_lines(path / EVENTS, missing))
    began_at = _began_at(lines, sightings, wall_s)
    journal = Journal(began_s=began_at - wall_s, began_at=began_at)
    journal.ended_s = max(
        (
            journal.began_s,
            *(each.last_s for each in sightings),
            *(
                journal.began_s + float(str(line["session_s"]))
                for line in lines
                if line["event"] != EventKind.SIGHTING_REVIEWED.value
            ),
        )
    )
    for line in lines:
        journal.note(_event(line, journal.began_s))
    if not any(line["event"] == EventKind.SESSION_ENDED.value for line in lines):
        missing.append("the session did not end regularly, or its last events are missing")
    facts = _facts(path, journal, lines, missing)
    missing += [
        f"{each.name} was not completed; players show it up to where it ends" for each in path.glob("*.partial.*")
    ]
    return SessionFolder(
        path=path,
        wall_s=wall_s,
        sightings=sightings,
        journal=journal,
        facts=replace(facts or _facts_of_start(lines), missing=tuple(missing)),
        is_complete=facts is not None,
    )


def _check(path: Path) -> None:
    names = (EVENTS, session_record.NAME, FACTS)
    if any((path / name).is_file() for name in names):
        return
    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder; give the folder of a session, such as live/2026-01-31_09-30-00")
    sessions = sorted({each.parent for name in names for each in path.glob(f"*/{name}")})
    if sessions:
        raise ConfigError(f"{path} holds {len(sessions)} sessions; give the folder of one, such as {sessions[-1]}")
    raise ConfigError(f"{path} contains no session; give a folder that polypstream live has written")


def _sightings(path: Path, wall_s: float, missing: list[str]) -> Iterator[Sighting]:
    """The sightings of the record, and one for each stored frame that it does not have."""
    listed: list[object] = []
    try:
        listed = json.loads((path / session_record.NAME).read_text(encoding="utf-8"))["sightings"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        missing.append(f"{session_record.NAME} is damaged ({type(error).__name__}); sightings are those with a frame")
    known: dict[int, Sighting] = {}
    for place, values in enumerate(listed if isinstance(listed, list) else [], start=1):
        try:
            sighting = _sighting(values, wall_s)
        except (ValueError, KeyError, TypeError, OverflowError):
            missing.append(f"entry {place} of {session_record.NAME} is damaged and left out")
            continue
        known[sighting.number] = sighting
    for image in (path / session_record.FOLDER).glob("*.jpg"):
        if image.stem.isdecimal() and int(image.stem) not in known:
            at_s = image.stat().st_mtime - wall_s
            known[int(image.stem)] = Sighting(number=int(image.stem), first_s=at_s, last_s=at_s, image_s=at_s, image=1)
    for number, sighting in sorted(known.items()):
        size = _size(path / session_record.FOLDER / f"{number:03}.jpg")
        if size is None:
            missing.append(f"the frame of sighting {number} is missing or damaged; it cannot be exported")
            yield replace(sighting, image=0)
            continue
        if sighting.clip and not (path / sighting.clip).is_file():
            missing.append(f"{sighting.clip}, the clip of sighting {number}, is missing")
        if sighting.size is not None and sighting.size != size:
            sighting = replace(sighting, contour=None)
        yield replace(sighting, size=size, image=max(sighting.image, 1))


def _sighting(values: object, wall_s: float) -> Sighting:
    if not isinstance(values, dict) or not isinstance(values["number"], int) or values["number"] < 1:
        raise ValueError("a sighting has a number from 1")
    first_s = datetime.fromisoformat(values["time"]).timestamp() - wall_s
    contour, clip, size = values["contour"], str(values["clip"]), values["size"]
    points = None if contour is None else np.array(contour, np.float32)
    if points is not None and (points.ndim != 2 or points.shape[1] != 2 or len(points) < 3):
        raise ValueError("a contour has points of two numbers")
    return Sighting(
        number=values["number"],
        kind=Kind(values["kind"]),
        first_s=first_s,
        last_s=first_s + float(values["duration_s"]),
        marked_s=float(values["marked_s"]),
        tracks=tuple(int(track) for track in values["tracks"]),
        score=float(values["score"]),
        is_reported_false=bool(values["is_reported_false"]),
        verdict=Verdict(values["verdict"]),
        is_corrected=bool(values["is_corrected"]),
        contour=points,
        size=None if size is None else (int(size[0]), int(size[1])),
        image_s=first_s
        if values["image_time"] is None
        else datetime.fromisoformat(values["image_time"]).timestamp() - wall_s,
        image=int(values["image"]),
        clip=clip if clip == Path(clip).name else "",  # a file of this folder, whatever the record says
        note=str(values.get("note", "")),
    )


def _size(image: Path) -> tuple[int, int] | None:
    """Width and height of a JPEG file in pixels; None if it is missing or damaged."""
    try:
        pixels = cv2.imdecode(np.frombuffer(image.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    return None if pixels is None else (pixels.shape[1], pixels.shape[0])


def _lines(path: Path, missing: list[str]) -> Iterator[dict[str, object]]:
    """The readable events."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        missing.append(f"{path.name} is missing")
        return
    kinds = {kind.value for kind in EventKind}
    damaged = 0
    for line in lines:
        try:
            values = json.loads(line)
            if values["event"] not in kinds:
                raise ValueError("an unknown event")
            yield values | {"session_s": float(values["session_s"])}
        except (ValueError, KeyError, TypeError):
            damaged += 1
    if damaged:
        missing.append(f"{damaged} lines of {path.name} are damaged and left out")


def _began_at(lines: list[dict[str, object]], sightings: tuple[Sighting, ...], wall_s: float) -> float:
    """Wall clock of the start, in seconds since 1970: as events say, otherwise that of the first sighting."""
    for line in lines:
        try:
            return datetime.fromisoformat(str(line["time"])).timestamp() - float(str(line["session_s"]))
        except (ValueError, KeyError):
            continue
    return min((each.first_s for each in sightings), default=monotonic()) + wall_s


def _event(line: dict[str, object], began_s: float) -> Event:
    own = {"event", "time", "session_s", "pts_s"}
    return Event(
        kind=EventKind(line["event"]),
        at=began_s + float(str(line["session_s"])),
        details={name: value for name, value in line.items() if name not in own},
    )


def _facts(path: Path, journal: Journal, lines: list[dict[str, object]], missing: list[str]) -> SessionFacts | None:
    """The saved facts, and the rest of the journal; None if they are missing or damaged."""
    try:
        values = json.loads((path / FACTS).read_text(encoding="utf-8"))
        samples, spans = [Sample(**each) for each in values["samples"]], [Span(**each) for each in values["spans"]]
        facts = SessionFacts(
            source=str(values["source"]),
            label=str(values["label"]),
            settings={str(name): str(value) for name, value in values["settings"].items()},
            totals={str(name): int(value) for name, value in values["totals"].items()},
            model=ModelFacts(**values["model"]),
        )
        ended_s, left_out = journal.began_s + float(values["duration_s"]), int(values["left_out"])
    except FileNotFoundError:
        missing.append(f"{FACTS} is missing: {_ENDED_ONLY}")
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        missing.append(f"{FACTS} is damaged: {_ENDED_ONLY}")
        return None
    journal.samples, journal.spans, journal.ended_s = samples, spans, ended_s
    journal.left_out = max(left_out, len(lines) - MOST_EVENTS, 0)
    return facts


def _facts_of_start(lines: list[dict[str, object]]) -> SessionFacts:
    """What the first event says about the session."""
    first = next((line for line in lines if line["event"] == EventKind.SESSION_STARTED.value), {})
    settings = {"operating_point": "Operating point at the start", "threshold": "Threshold at the start"}
    threshold = first.get("threshold")
    return SessionFacts(
        source=str(first.get("source", "unknown source")),
        label=str(first.get("label", "")),
        settings={text: str(first[name]) for name, text in settings.items() if name in first},
        totals={},
        has_times=False,
        model=ModelFacts(threshold=float(threshold)) if isinstance(threshold, int | float) else ModelFacts(),
    )
