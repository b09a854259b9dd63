"""Timelines: joins the timelines within a file into one, for all its streams."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import av

Packet: TypeAlias = "av.Packet[Any]"

FREE_RUNNING_FORMATS = frozenset({"mpegts", "mpeg", "flv", "hls"})
"""Formats whose clock may start at any value and restart within a file, due to splicing or a restarted device."""
ELEMENTARY_FORMATS = frozenset({"h264", "hevc", "mpegvideo", "mjpeg", "m4v", "vc1", "dirac", "cavsvideo"})
"""Coded video without a container, which has no clock; its times, if any, are derived from the frame rate."""
WRAP_S = Fraction(2**33, 90_000)
"""Seconds after which the clock of MPEG transport and program streams wraps to 0: 26.5 hours."""
WRAPPING_FORMATS = frozenset({"mpegts", "mpeg", "hls"})
"""Formats whose clock has 33 bits."""
_WRAP_SLACK_S = 10
"""Tolerance in seconds within which a jump back by the wrap period counts as the wrap."""
_BACK_S = Fraction(1, 5)
"""Decoding times that go back by more than this start a new timeline."""
_FORWARD_S = 60
"""A longer gap is reported; in a free-running format it is closed, since the clock was reset."""
_OVERLAP_S = Fraction(1, 10)
"""Time in seconds by which another stream may exceed the end of the video without delaying the next timeline."""
_MOST_HELD = 1000
"""Maximum number of packets of other streams that wait for the video to reach the same jump."""


@dataclass(kw_only=True)
class _Track:
    """State of one stream."""

    offset_s: Fraction
    """Offset currently added to its times."""
    segment: int
    """Index of the current offset."""
    end_s: Fraction
    """End of its latest packet in decoding order, after the shift."""
    shown_until_s: Fraction
    """End of its packets in presentation order, after the shift."""
    last_s: Fraction
    """Time of its latest packet, after the shift."""


class PacketClock:
    """Joins the timelines of a file into one, for all streams alike, so that they stay in sync.

    A file may contain several timelines: concatenated recordings, a clock that wraps, or one that is reset. The video
    determines where a new timeline begins; packets of other streams that reach it first wait. A single
    packet with a wrong time does not start a timeline: its time is replaced.

    Args:
        format_name: FFmpeg's name of the container format.
        reference: Index of the video stream.
    """

    def __init__(self, format_name: str, *, reference: int) -> None:
        names = set(format_name.split(","))
        self._is_free_running = bool(FREE_RUNNING_FORMATS & names)
        self._wraps = bool(WRAPPING_FORMATS & names)
        self._reference = reference
        self._offsets_s = [Fraction(0)]
        self._tracks: dict[int, _Track] = {}
        self._suspect: Packet | None = None
        self._held: list[Packet] = []
        self._jumps: list[tuple[Fraction, str]] = []
        self._gaps: list[tuple[Fraction, Fraction]] = []

    def fix(self, packet: Packet) -> list[Packet]:
        """Shift a packet's times onto the joined timeline.

        Returns:
            The packets that are ready: usually the given one, but none while it is held back, or several.
        """
        if _time_of(packet) is None:
            return [packet]
        self._unwrap_pts(packet)
        return self._fix_video(packet) if packet.stream_index == self._reference else self._fix_other(packet)

    def flush(self) -> list[Packet]:
        """The packets that are still held back. Call it after the last packet."""
        ready = []
        if (suspect := self._suspect) is not None:
            self._suspect = None
            ready += [self._first_of_segment(suspect), *self._retry_held()]
        return ready + self._release_held()

    @property
    def has_joined(self) -> bool:
        """Whether a second timeline has started."""
        return len(self._offsets_s) > 1

    def notices(self, *, start_s: Fraction = Fraction(0)) -> list[str]:
        """Changes and anomalies so far, one line each, with times relative to `start_s`."""
        notices = []
        if self._jumps:
            jumps = ", ".join(f"{float(at_s - start_s):.2f} s ({what})" for at_s, what in self._jumps)
            notices.append(f"the clock in the file jumps at {jumps}; times continue without a jump")
        for gap in self._gaps:
            start, end = (float(at_s - start_s) for at_s in gap)
            notices.append(f"there are no frames from {start:.2f} s to {end:.2f} s: the timestamps in the file jump")
        return notices

    def _fix_video(self, packet: Packet) -> list[Packet]:
        suspect, self._suspect = self._suspect, None
        if suspect is not None:
            if self._continues(packet) and abs(_seconds(suspect) - _seconds(packet)) >= 1:
                _set_time(suspect, self._tracks[self._reference])
                ready = [self._shifted(suspect, self._tracks[self._reference])]
            else:
                ready = [self._first_of_segment(suspect)]
            return [*ready, *self._retry_held(), *self._fix_video(packet)]
        if not self._continues(packet):
            self._suspect = packet
            return []
        track = self._tracks.get(self._reference) or self._new_track(packet)
        self._note_gap(packet, track)
        return [self._shifted(packet, track)]

    def _fix_other(self, packet: Packet) -> list[Packet]:
        track = self._tracks.get(packet.stream_index) or self._new_track(packet)
        is_sparse = packet.stream.type not in {"video", "audio"}
        if is_sparse and self._suspect is not None:
            self._held.append(packet)
            return []
        segment = self._segment_of(packet, track, is_sparse=is_sparse)
        if segment is None:
            self._held.append(packet)
            return self._release_held() if len(self._held) > _MOST_HELD else []
        track.segment, track.offset_s = segment, self._offsets_s[segment]
        outliers = [held for held in self._held if held.stream_index == packet.stream_index and not is_sparse]
        self._held = [held for held in self._held if held not in outliers]
        for outlier in outliers:
            _set_time(outlier, track)
        return [self._shifted(each, track) for each in [*outliers, packet]]

    def _segment_of(self, packet: Packet, track: _Track, *, is_sparse: bool) -> int | None:
        """Index of the timeline of a packet of a stream other than the video; None if not known yet."""
        time_s = _seconds(packet)
        video = self._tracks.get(self._reference, track)
        if not is_sparse and -_BACK_S <= time_s + track.offset_s - track.end_s < 1:
            return track.segment
        self._foresee_wrap(time_s, video.end_s)

        def distance_s(segment: int) -> Fraction:
            shifted_s = time_s + self._offsets_s[segment]
            from_video_s = abs(shifted_s - video.end_s)
            return from_video_s if is_sparse else min(abs(shifted_s - track.end_s), from_video_s)

        segment = min(range(0 if is_sparse else track.segment, len(self._offsets_s)), key=distance_s)
        from_end_s = time_s + self._offsets_s[segment] - track.end_s
        is_plausible = is_sparse or self._is_continuous(from_end_s)
        is_plausible |= from_end_s > 0 and distance_s(segment) < _WRAP_SLACK_S
        return segment if is_plausible else None

    def _new_track(self, packet: Packet) -> _Track:
        """Start a stream on the timeline that brings it closest to the video."""
        time_s = _seconds(packet)
        video = self._tracks.get(self._reference)
        segment = len(self._offsets_s) - 1
        if video is not None:
            self._foresee_wrap(time_s, video.end_s)
            segment = min(
                range(len(self._offsets_s)), key=lambda index: abs(time_s + self._offsets_s[index] - video.end_s)
            )
        offset_s = self._offsets_s[segment]
        return self._tracks.setdefault(
            packet.stream_index,
            _Track(
                offset_s=offset_s,
                segment=segment,
                end_s=time_s + offset_s,
                shown_until_s=time_s + offset_s,
                last_s=time_s + offset_s,
            ),
        )

    def _foresee_wrap(self, time_s: Fraction, video_s: Fraction) -> None:
        """Add the timeline of a stream that wraps before the video does, or after it."""
        for wrap_s in (WRAP_S, -WRAP_S) if self._wraps else ():
            offset_s = self._offsets_s[-1] + wrap_s
            if abs(time_s + offset_s - video_s) < _WRAP_SLACK_S:
                self._offsets_s.append(offset_s)

    def _continues(self, packet: Packet) -> bool:
        track = self._tracks.get(self._reference)
        return track is None or self._is_continuous(_seconds(packet) + track.offset_s - track.end_s)

    def _is_continuous(self, distance_s: Fraction) -> bool:
        return distance_s >= -_BACK_S and not (self._is_free_running and distance_s > _FORWARD_S)

    def _first_of_segment(self, packet: Packet) -> Packet:
        """Start a timeline at a packet of the video."""
        track, time_s = self._tracks[self._reference], _seconds(packet)
        jump_s = time_s + track.offset_s - track.end_s
        if self._wraps and abs(jump_s + WRAP_S) < _WRAP_SLACK_S:
            offset_s = track.offset_s + WRAP_S
        else:
            offset_s = track.end_s - time_s
            if packet.pts is not None:
                offset_s = max(offset_s, track.shown_until_s - packet.pts * packet.time_base)
            for held in self._held:
                if (needed_s := self._tracks[held.stream_index].end_s - _seconds(held)) > offset_s + _OVERLAP_S:
                    offset_s = needed_s
            direction = "back" if jump_s < 0 else "ahead"
            self._jumps.append((track.end_s, f"{direction} by {float(abs(jump_s)):.2f} s"))
        self._offsets_s.append(offset_s)
        track.offset_s, track.segment = offset_s, len(self._offsets_s) - 1
        track.end_s = time_s + offset_s
        return self._shifted(packet, track)

    def _retry_held(self) -> list[Packet]:
        held, self._held = self._held, []
        return [ready for packet in held for ready in self._fix_other(packet)]

    def _release_held(self) -> list[Packet]:
        """Stop waiting for the video: join each stream that jumped alone to its own previous end."""
        held, self._held = self._held, []
        for packet in held:
            track = self._tracks[packet.stream_index]
            if not self._is_continuous(_seconds(packet) + track.offset_s - track.end_s):
                track.offset_s = track.end_s - _seconds(packet)
                self._offsets_s.append(track.offset_s)
                track.segment = len(self._offsets_s) - 1
                self._jumps.append((track.end_s, f"{packet.stream.type} only"))
            self._shifted(packet, track)
        return held

    def _note_gap(self, packet: Packet, track: _Track) -> None:
        time_s = _seconds(packet) + track.offset_s
        if time_s - track.last_s > _FORWARD_S:
            self._gaps.append((track.last_s, time_s))

    def _unwrap_pts(self, packet: Packet) -> None:
        """Move both times of a packet to the same side of the wrap."""
        if self._wraps and packet.pts is not None and packet.dts is not None:
            wrap = round(WRAP_S / packet.time_base)
            packet.pts += wrap * round((packet.dts - packet.pts) / wrap)

    def _shifted(self, packet: Packet, track: _Track) -> Packet:
        if offset := round(track.offset_s / packet.time_base):
            packet.dts = None if packet.dts is None else packet.dts + offset
            packet.pts = None if packet.pts is None else packet.pts + offset
        time = _time_of(packet)
        assert time is not None
        track.last_s = time * packet.time_base
        track.end_s = max(track.end_s, (time + (packet.duration or 0)) * packet.time_base)
        shown = time if packet.pts is None else packet.pts
        track.shown_until_s = max(track.shown_until_s, (shown + (packet.duration or 0)) * packet.time_base)
        return packet


def _time_of(packet: Packet) -> int | None:
    return packet.pts if packet.dts is None else packet.dts


def _seconds(packet: Packet) -> Fraction:
    time = _time_of(packet)
    assert time is not None
    return time * packet.time_base


def _set_time(packet: Packet, track: _Track) -> None:
    """Set the time of a packet, before shifting, to the end of the previous one of its stream."""
    time = round((track.end_s - track.offset_s) / packet.time_base)
    packet.dts = time
    packet.pts = None if packet.stream.type == "video" else time
