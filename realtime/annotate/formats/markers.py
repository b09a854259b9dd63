"""Markers on a timeline, one per polyp: WebVTT for players and browsers, EDL for video editors."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from polypstream.files import write_atomically
from polypstream.realtime.annotate.formats.recording import Recording
from polypstream.realtime.annotate.tracks import PolypTrack

EDL_START_HOUR = 1
"""Hour at which the timelines of video editors start."""
_COLOR = "Yellow"


def write_webvtt(recording: Recording, path: Path) -> None:
    """Write one cue per polyp, from its first frame to the end of its last one, on the clock of players."""
    cues = [
        f"{track.id}\n"
        f"{_vtt_time(track.first_pts_s)} --> {_vtt_time(track.last_pts_s + recording.frame_step_s)}\n"
        f"{_title(track)}, frames {track.first_index} to {track.last_index}, best frame {track.best_index}\n"
        for track in recording.tracks()
    ]
    write_atomically(path, "\n".join(["WEBVTT\n", *cues]))


def write_edl(recording: Recording, path: Path) -> None:
    """Write a CMX 3600 list with one marker per polyp, as DaVinci Resolve (`|C: |M: |D:`) and Avid (`LOC`) read them.

    Source timecodes count from 00:00:00:00, those of the timeline from 01:00:00:00. At a constant rate they are frame
    numbers; otherwise presentation times at the mean rate. 29.97 and 59.94 fps use drop-frame timecode.
    """
    clock = Timecode.of(recording.rate)
    lines = [f"TITLE: {recording.name}", f"FCM: {'DROP FRAME' if clock.drops else 'NON-DROP FRAME'}", ""]
    for number, track in enumerate(recording.tracks(), start=1):
        first, last = (
            _timeline_frame(recording, index, pts_s)
            for index, pts_s in ((track.first_index, track.first_pts_s), (track.last_index, track.last_pts_s))
        )
        hour = clock.frames_at_hour(EDL_START_HOUR)
        source = f"{clock.text(first)} {clock.text(last + 1)}"
        timeline = f"{clock.text(hour + first)} {clock.text(hour + last + 1)}"
        lines += [
            f"{number:03d}  AX       V     C        {source} {timeline}",
            f" |C:ResolveColor{_COLOR} |M:{_title(track)} |D:{last + 1 - first}",  # directly below, as in Resolve
            f"* FROM CLIP NAME: {recording.summary.video.name}",
            f"* LOC: {clock.text(hour + first)} {_COLOR.upper()} {_title(track)}",
            "",
        ]
    write_atomically(path, "\n".join(lines))


def _title(track: PolypTrack) -> str:
    return f"Polyp {track.id}, score {track.best_score:.2f}"


def _timeline_frame(recording: Recording, index: int, pts_s: float) -> int:
    """Number of a frame on an editor's timeline, which preserves times rather than frames if the rate varies."""
    return index if recording.is_constant_rate else round(Fraction(pts_s) * recording.rate)


def _vtt_time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


@dataclass(frozen=True, kw_only=True)
class Timecode:
    """SMPTE timecode HH:MM:SS:FF (HH:MM:SS;FF if it drops) of frame numbers."""

    frames_per_second: int
    """Nominal frames per second: the rate, rounded up."""
    drops: int
    """Frame numbers dropped in every minute except each tenth; 0 for none."""

    @classmethod
    def of(cls, rate: Fraction) -> "Timecode":
        """The timecode of a frame rate; drop-frame for 30000/1001 and 60000/1001."""
        nominal = max(round(rate), 1)
        is_ntsc = nominal in (30, 60) and abs(rate - Fraction(nominal * 1000, 1001)) < Fraction(1, 1000)
        return cls(frames_per_second=nominal, drops=nominal // 15 if is_ntsc else 0)

    def frames_at_hour(self, hour: int) -> int:
        """Number of the frame whose timecode is a full hour."""
        return hour * 6 * self._frames_in_ten_minutes

    def text(self, frame: int) -> str:
        """The timecode of a frame."""
        tens, rest = divmod(frame, self._frames_in_ten_minutes)
        in_minute = 60 * self.frames_per_second - self.drops
        minutes_dropped = max(rest - self.drops, 0) // in_minute
        number = frame + self.drops * (9 * tens + minutes_dropped)
        seconds, frames = divmod(number, self.frames_per_second)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours:02d}:{minutes:02d}:{seconds % 60:02d}{';' if self.drops else ':'}{frames:02d}"

    @property
    def _frames_in_ten_minutes(self) -> int:
        return 600 * self.frames_per_second - 9 * self.drops
