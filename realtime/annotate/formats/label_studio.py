"""Label Studio: a task with predicted boxes on a video, and its labeling configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

from polypstream.files import write_atomically
from polypstream.realtime.annotate.formats.recording import LABEL, ExportFrame, Recording, TrackedPolyp

CONFIG_SUFFIX = "_config.xml"


def config_of() -> str:
    """The labeling configuration. The frame rate is taken from the task, as the default of 24 would shift every box."""
    return (
        "<View>\n"
        '  <Labels name="videoLabels" toName="video" allowEmpty="true">\n'
        f'    <Label value={quoteattr(LABEL)} background="#ffd400"/>\n'
        "  </Labels>\n"
        '  <Video name="video" value="$video" framerate="$fps"/>\n'
        '  <VideoRectangle name="box" toName="video"/>\n'
        "</View>\n"
    )


def write_label_studio(recording: Recording, path: Path) -> None:
    """Write a list of one task, and its configuration next to it as `<name>_config.xml`."""
    write_atomically(path, json.dumps([task_of(recording)], indent=1) + "\n")
    write_atomically(path.with_name(path.stem + CONFIG_SUFFIX), config_of())


def task_of(recording: Recording, *, video: str | None = None) -> dict[str, object]:
    """Convert a recording to a task with one prediction.

    Every frame with a polyp is a keyframe, so that nothing is interpolated; the last one before a gap is not `enabled`,
    which ends the box there. Frames are counted from 1; boxes are percentages of the frame.

    Args:
        recording: The recording.
        video: Address of the video for Label Studio; None for a path in its local storage.
    """
    by_track: dict[int | None, list[tuple[ExportFrame, TrackedPolyp]]] = {}
    for frame in recording.frames():
        for each in frame.polyps:
            by_track.setdefault(each.track, []).append((frame, each))
    scores = {track.id: track.best_score for track in recording.summary.tracks}
    results = [_region(recording, track, seen, scores) for track, seen in by_track.items()]
    name, rate = recording.proxy or (recording.summary.video.name, recording.rate)
    return {
        "data": {
            "video": video or f"/data/local-files/?d={name}",
            "fps": round(float(rate), 6),
        },
        "predictions": [
            {
                "model_version": recording.summary.model,
                "score": round(max(scores.values(), default=0.0), 4),
                "result": results,
            }
        ],
    }


def _region(
    recording: Recording,
    track: int | None,
    seen: list[tuple[ExportFrame, TrackedPolyp]],
    scores: Mapping[int, float],
) -> dict[str, object]:
    width, height = recording.size
    proxy_rate = None if recording.proxy is None else float(recording.proxy[1])
    frames = recording.summary.video.frames
    following = [frame.index for frame, _ in seen[1:]]
    sequence = []
    for (frame, each), after in zip(seen, [*following, None], strict=True):
        left, top, across, down = each.polyp.box
        sequence.append(
            {
                "frame": frame.index + 1,
                "enabled": after == frame.index + 1,
                "rotation": 0,
                "x": round(100 * left / width, 4),
                "y": round(100 * top / height, 4),
                "width": round(100 * across / width, 4),
                "height": round(100 * down / height, 4),
                "time": round(frame.pts_s if proxy_rate is None else frame.index / proxy_rate, 6),
            }
        )
    return {
        "id": f"polyp-{'untracked' if track is None else track}",
        "type": "videorectangle",
        "from_name": "box",
        "to_name": "video",
        "origin": "prediction",
        **({} if track is None or track not in scores else {"score": round(scores[track], 4)}),
        "value": {
            "framesCount": frames,
            "duration": round(recording.duration_s if proxy_rate is None else frames / proxy_rate, 6),
            "sequence": sequence,
            "labels": [LABEL],
        },
    }
