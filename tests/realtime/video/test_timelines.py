"""Clocks that start anywhere, wrap, or are reset: times start at 0, increase, and audio stays in sync."""

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from polypstream.realtime.annotate.records import RecordWriter
from polypstream.realtime.video.container import VideoInfo
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import StreamPacket, VideoReader
from tests.clips import make_clip, rewritten

WRAP_S = 2**33 / 90_000
FRAME = Fraction(1, 25)


class Read:
    """Everything that a file yields."""

    def __init__(self, path: Path) -> None:
        self.times: list[Fraction] = []
        self.audio: list[Fraction] = []
        with VideoReader(path) as reader:
            for item in reader:
                if isinstance(item, Frame):
                    self.times.append(item.pts * item.time_base)
                elif isinstance(item, StreamPacket) and item.packet.stream.type == "audio":
                    packet = item.packet
                    assert packet.pts is not None
                    self.audio.append(packet.pts * packet.time_base)
            self.info: VideoInfo = reader.info
            self.notices, self.damage = reader.notices, reader.damage

    @property
    def steps(self) -> set[float]:
        return {round(float(b - a), 3) for a, b in pairwise(self.times)}


def clip(path: Path, *, offset_s: float = 0, frames: int = 50, **changes: Any) -> Path:
    options = {"bf": "2", "g": "25"} | changes.pop("options", {})
    container_options = {"output_ts_offset": str(offset_s)} | changes.pop("container_options", {})
    return make_clip(path, frames=frames, options=options, container_options=container_options, **changes)


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".mkv", ".mp4", ".mov", ".flv", ".asf", ".nut"])
@pytest.mark.parametrize("offset_s", [18_000, 95_441.5])
def test_a_late_start_is_moved_to_zero(tmp_path: Path, suffix: str, offset_s: float) -> None:
    codec, audio = {
        ".mpg": ("mpeg2video", "mp2"),
        ".flv": ("flv", "aac"),
        ".asf": ("msmpeg4", "mp2"),
    }.get(suffix, ("libx264", "aac"))
    options = {"bf": "0"} if codec in {"flv", "msmpeg4"} else {}
    path = clip(tmp_path / f"clip{suffix}", offset_s=offset_s, codec=codec, audio=audio, options=options)
    plain = Read(clip(tmp_path / f"plain{suffix}", codec=codec, audio=audio, options=options))
    late = Read(path)
    assert len(late.times) == 50
    assert late.steps == {0.04}
    assert 0 <= late.times[0] < 0.2
    assert late.info.start_offset_s == pytest.approx(offset_s, abs=2.5)
    assert late.info.duration_s == pytest.approx(2, abs=0.3)
    assert any("starts at" in notice for notice in late.notices)
    assert late.damage == []
    distance = late.audio[0] - late.times[0]
    assert distance == pytest.approx(plain.audio[0] - plain.times[0], abs=0.002)


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize("at_s", [0, 0.02, 0.13, 0.5, 1, 1.5, 1.96])
def test_a_clock_that_wraps_within_the_file_continues(tmp_path: Path, suffix: str, at_s: float) -> None:
    codec = "libx264" if suffix == ".ts" else "mpeg2video"
    made = Read(clip(tmp_path / f"clip{suffix}", offset_s=WRAP_S - at_s - 0.5, codec=codec, audio="mp2"))
    plain = Read(clip(tmp_path / f"plain{suffix}", codec=codec, audio="mp2"))
    assert made.times == pytest.approx(plain.times, abs=0.0001)
    assert made.audio == pytest.approx(plain.audio, abs=0.0001)
    assert made.damage == []
    assert not any("jumps" in notice for notice in made.notices)


def test_the_annotated_file_starts_at_zero_with_its_sound(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.ts", offset_s=95_441.5, audio="mp2")
    before = Read(path)
    after = Read(rewritten(path, tmp_path / "out.mp4").path)
    assert after.times == before.times
    assert after.audio == pytest.approx(before.audio, abs=0.001)
    assert after.info.duration_s == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("offset_s", [0, 18_000, 60_000])
def test_a_jump_within_a_file_is_closed_and_reported(tmp_path: Path, offset_s: float) -> None:
    one = clip(tmp_path / "one.ts", audio="mp2", frames=13)
    two = clip(tmp_path / "two.ts", audio="mp2", frames=13, offset_s=offset_s)
    for parts in ((one, two), (two, one), (one, two, one)):
        read = Read(joined(tmp_path / "joined.ts", *parts))
        assert len(read.times) == 13 * len(parts)
        assert read.steps <= {0.04, 0.041, 0.039}
        assert sum("jumps" in notice for notice in read.notices) == 1
        per_part = len(read.audio) // len(parts)
        assert len(read.audio) == per_part * len(parts)
        first = read.audio[0] - read.times[0]
        for part in range(len(parts)):
            assert read.audio[part * per_part] - read.times[part * 13] == pytest.approx(first, abs=0.001)


@pytest.mark.parametrize("movflags", ["frag_keyframe+empty_moov", "frag_keyframe+empty_moov+default_base_moof"])
@pytest.mark.parametrize("audio", [None, "aac"])
def test_appended_fragmented_files_continue(tmp_path: Path, movflags: str, audio: str | None) -> None:
    part = clip(tmp_path / "part.mp4", audio=audio, frames=50, container_options={"movflags": movflags})
    read = Read(joined(tmp_path / "joined.mp4", part, part))
    assert len(read.times) == 100
    assert read.steps == Read(part).steps
    assert any("jumps" in notice for notice in read.notices)
    assert read.damage == []


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mkv", "libx264"), (".webm", "libvpx"), (".mpg", "mpeg2video"), (".avi", "mpeg4")]
)
def test_appended_files_of_other_formats_continue(tmp_path: Path, suffix: str, codec: str) -> None:
    options = {"bf": "0"} if codec == "libvpx" else {}
    part = clip(tmp_path / f"part{suffix}", codec=codec, options=options)
    read = Read(joined(tmp_path / f"joined{suffix}", part, part))
    assert len(read.times) == 100
    assert read.steps == {0.04}


@pytest.mark.parametrize(
    ("suffix", "codec", "parts"), [(".mkv", "libx264", 3), (".flv", "flv", 2), (".asf", "wmv2", 2)]
)
def test_appended_files_that_are_not_read_are_reported(tmp_path: Path, suffix: str, codec: str, parts: int) -> None:
    part = clip(tmp_path / f"part{suffix}", codec=codec, options={} if codec == "libx264" else {"bf": "0"})
    read = Read(joined(tmp_path / f"joined{suffix}", *[part] * parts))
    assert read.times
    assert len(read.damage) == 1
    assert f"another file is appended at byte {part.stat().st_size * (parts - 1)}" in read.damage[0].message
    assert Read(part).damage == []


def test_short_appended_parts_are_distinguished(tmp_path: Path) -> None:
    part = clip(tmp_path / "part.ts", frames=12)
    read = Read(joined(tmp_path / "joined.ts", *[part] * 6))
    assert len(read.times) == 72
    assert read.steps == {0.04}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_gap_of_an_hour_in_a_file_with_a_fixed_timeline_is_kept_and_reported(tmp_path: Path, suffix: str) -> None:
    pts = [*range(0, 1000, 40), *range(3_600_000, 3_601_000, 40)]
    path = make_clip(tmp_path / f"clip{suffix}", pts=pts, time_base=Fraction(1, 1000))
    read = Read(path)
    assert [float(time) for time in read.times] == [time / 1000 for time in pts]
    assert any("no frames from 0.96 s to 3600.00 s" in notice for notice in read.notices)


def test_chapters_move_with_the_frames(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", chapters=True, pts=range(500, 550))
    with VideoReader(path) as reader:
        assert reader.info.start_offset_s == pytest.approx(20)
        assert [chapter["start"] for chapter in reader.chapters] == [0, 0]


def test_the_pixel_aspect_ratio_of_each_frame_is_known(tmp_path: Path) -> None:
    parts = [
        make_clip(tmp_path / f"{index}.ts", frames=10, codec="mpeg2video", width=96, sample_aspect_ratio=ratio)
        for index, ratio in enumerate((Fraction(8, 9), Fraction(32, 27)))
    ]
    with VideoReader(joined(tmp_path / "joined.ts", *parts)) as reader:
        ratios = [item.sample_aspect_ratio for item in reader if isinstance(item, Frame)]
        first = reader.info.sample_aspect_ratio
    assert ratios[0] == ratios[8] == first
    assert ratios[11] == ratios[-1] != first
    assert len(set(ratios)) == 2


def test_the_clip_maker_can_set_the_clock(tmp_path: Path) -> None:
    with av.open(str(clip(tmp_path / "clip.ts", offset_s=18_000))) as container:
        assert container.start_time == pytest.approx(18_000 * 1_000_000, rel=1e-3)


def test_the_start_of_the_clock_is_part_of_every_record(tmp_path: Path) -> None:
    clips = clip(tmp_path / "late.ts", offset_s=18_000, frames=3), clip(tmp_path / "plain.mp4", frames=3)
    for path in clips:
        with (
            VideoReader(path) as reader,
            RecordWriter(path.with_suffix(".jsonl"), start_offset_s=reader.info.start_offset_s) as records,
        ):
            for item in reader:
                if isinstance(item, Frame):
                    records.write(item, [])
    late, plain = ([json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()] for path in clips)
    assert [record["pts_s"] for record in late] == [0, 0.04, 0.08]
    assert {round(record["start_offset_s"] / 10) for record in late} == {1800}
    assert not any("start_offset_s" in record for record in plain)
