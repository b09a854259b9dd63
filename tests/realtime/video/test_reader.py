import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import av
import pytest

from polypstream.errors import SourceError
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import StreamPacket, VideoReader
from tests.clips import make_clip, plane_bytes, read_packets, read_video, times_of


def frames_of(path: Path) -> tuple[list[Frame], VideoReader]:
    with VideoReader(path) as source:
        frames = [item for item in source if isinstance(item, Frame)]
        return frames, source


def seconds(frames: list[Frame]) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames]


def times_from_start(path: Path) -> list[Fraction]:
    """The times of the frames; for a transport stream relative to its start, as its clock is arbitrary."""
    times = times_of(path)
    return [time - times[0] * (path.suffix == ".ts") for time in times]


def overwritten(path: Path, start: float, length: float, seed: int = 1) -> Path:
    data = bytearray(path.read_bytes())
    first = int(len(data) * start)
    generator = random.Random(seed)
    for place in range(first, first + int(len(data) * length)):
        data[place] = generator.randrange(256)
    damaged = path.with_stem(f"{path.stem}_damaged")
    damaged.write_bytes(data)
    return damaged


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    shorter = path.with_stem(f"{path.stem}_cut")
    shorter.write_bytes(data[: int(len(data) * share)])
    return shorter


def long_clip(path: Path, *, threads: str = "2", **changes: Any) -> Path:
    """A clip of 100 frames; the number of threads that encode it changes its bytes."""
    faststart = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    options = {"g": "20", "bf": "2", "qp": "10", "preset": "veryfast", "threads": threads}
    return make_clip(path, frames=100, width=160, height=120, options=options, container_options=faststart, **changes)


def test_frames_come_in_presentation_order_with_their_times(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=30, options={"bf": "3"})
    frames, source = frames_of(clip)
    assert [frame.index for frame in frames] == list(range(30))
    assert seconds(frames) == times_of(clip)
    assert source.damage == []
    assert source.notices == []


def test_info_states_geometry_color_and_rotation(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4", sample_aspect_ratio=Fraction(4, 3), colors=(1, 5, 6, 7), rotation=90, is_interlaced=True
    )
    with VideoReader(clip) as source:
        info = source.info
    assert (info.width, info.height, info.pixel_format, info.codec) == (64, 48, "yuv420p", "h264")
    assert (info.color_range, info.colorspace, info.color_primaries, info.color_trc) == (1, 5, 6, 7)
    assert (info.sample_aspect_ratio, info.rotation, info.is_interlaced) == (Fraction(4, 3), 90, True)
    assert (info.frame_count, info.average_rate, info.duration_s) == (12, Fraction(25), 0.48)
    assert info.display_matrix is not None
    assert len(info.display_matrix) == 9


def test_packets_of_other_streams_pass_unchanged(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", audio="libopus", subtitles="subrip")
    with VideoReader(clip) as source:
        packets = [item.packet for item in source if isinstance(item, StreamPacket)]
        got = {i: [((p.pts or 0) * p.time_base, bytes(p)) for p in packets if p.stream_index == i] for i in (1, 2)}
    assert got == {1: read_packets(clip, 1), 2: read_packets(clip, 2)}


def test_a_source_is_read_once(tmp_path: Path) -> None:
    with VideoReader(make_clip(tmp_path / "clip.mp4")) as source:
        list(source)
        with pytest.raises(SourceError, match="open it again"):
            list(source)


def test_another_thread_may_iterate_and_be_left(tmp_path: Path) -> None:
    got: list[Frame | StreamPacket] = []
    with VideoReader(make_clip(tmp_path / "clip.mp4")) as source:
        worker = Thread(target=lambda: got.extend(source))
        worker.start()
        worker.join()
    assert len(got) == 12
    source.close()
    with pytest.raises(SourceError, match="is closed"):
        _ = source.streams
    with VideoReader(make_clip(tmp_path / "clip.mp4")) as source:
        first = next(iter(source))
    assert isinstance(first, Frame)
    assert plane_bytes(first.picture)  # still valid


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"no video at all\n" * 99, "text file"),
        ("notes.mp4", b"no video at all\n" * 99, "not a video"),
        ("empty.mp4", b"", r"empty \(0 bytes\)"),
        ("noise.avi", bytes(range(1, 256)) * 40, "not a video"),
    ],
)
def test_files_that_are_not_videos_are_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=says) as caught:
        VideoReader(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file"):
        VideoReader(tmp_path / "missing.mp4")
    with pytest.raises(SourceError, match="is a folder"):
        VideoReader(tmp_path)


def test_an_mp4_without_its_index_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="without a usable index"):
        VideoReader(cut(make_clip(tmp_path / "clip.mp4", frames=40), 0.5))


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        frame.planes[0].update(bytes(4096))
        container.mux([*audio.encode(frame), *audio.encode(None)])
    with pytest.raises(SourceError, match=r"no video \(audio streams only\)"):
        VideoReader(path)


def test_a_video_stream_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        container.add_stream("ffv1", rate=25, width=64, height=48)
        audio = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=960)
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux([*audio.encode(frame), *audio.encode(None)])
    with pytest.raises(SourceError, match="no frame of"):
        VideoReader(path)


def test_an_unknown_codec_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1")
    clip.write_bytes(clip.read_bytes().replace(b"V_FFV1", b"V_XXX1"))
    with pytest.raises(SourceError, match=r"codec that FFmpeg cannot decode|no frame of"):
        VideoReader(clip)


@pytest.mark.parametrize("threads", ["1", "3"])  # the damage begins between B-frames, and elsewhere
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_decoding_continues_after_damage(tmp_path: Path, suffix: str, threads: str) -> None:
    clip = long_clip(tmp_path / f"clip{suffix}", threads=threads)
    whole = {time: shown.planes for time, shown in zip(times_from_start(clip), read_video(clip), strict=True)}
    frames, source = frames_of(overwritten(clip, 0.45, 0.06))
    assert len(source.damage) == 1
    damage = source.damage[0]
    start, end = min(whole), max(whole)
    assert damage.start_s is not None
    assert damage.end_s is not None
    assert start < damage.start_s < damage.end_s < end
    assert seconds(frames)[-1] == end
    before = {t for t in whole if t < damage.start_s - 0.001}
    assert before <= set(seconds(frames))
    for frame, time in zip(frames, seconds(frames), strict=True):
        if time < damage.start_s - 0.001:
            assert plane_bytes(frame.picture) == whole[time]
    assert plane_bytes(frames[-1].picture) == whole[end]  # a later group of pictures is whole again


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_cut_short_says_what_is_missing(tmp_path: Path, suffix: str) -> None:
    clip = long_clip(tmp_path / f"clip{suffix}")
    frames, source = frames_of(cut(clip, 0.6))
    assert 40 < len(frames) < 75
    assert seconds(frames) == times_from_start(clip)[: len(frames)]
    last = source.damage[-1]
    assert last.end_s == pytest.approx(4, abs=0.1)
    assert last.start_s == pytest.approx(float(seconds(frames)[-1]) + 0.04, abs=0.1)
    assert "ends before" in last.message


def test_a_truncated_transport_stream_is_read_to_its_end(tmp_path: Path) -> None:
    clip = long_clip(tmp_path / "clip.ts")
    frames, _ = frames_of(cut(clip, 0.6))
    assert 40 < len(frames) < 75
    assert seconds(frames) == times_from_start(clip)[: len(frames)]


def test_damage_to_the_last_packets_costs_no_good_frame(tmp_path: Path) -> None:
    clip = long_clip(tmp_path / "clip.mp4")
    whole = times_of(clip)
    frames, source = frames_of(overwritten(clip, 0.96, 0.02))
    lost = set(whole) - set(seconds(frames))
    assert len(lost) < 8
    for time in lost:
        assert any(d.start_s <= time < d.end_s for d in source.damage if d.start_s is not None and d.end_s is not None)


def test_a_stream_that_begins_within_a_group_reports_its_first_frames(tmp_path: Path) -> None:
    clip = long_clip(tmp_path / "clip.ts")
    data = clip.read_bytes()
    start = int(len(data) * 0.3) // 188 * 188
    clip.write_bytes(data[:564] + data[start:])
    frames, source = frames_of(clip)
    assert len(frames) >= 60
    assert not frames[0].picture.is_corrupt or source.damage


def test_appended_recordings_are_one_time_line(tmp_path: Path) -> None:
    one = make_clip(tmp_path / "one.ts", frames=50)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() * 2)
    frames, source = frames_of(joined)
    times = seconds(frames)
    assert len(times) == 100
    assert all(b - a == Fraction(1, 25) for a, b in pairwise(times))
    assert any("the clock in the file jumps at 2.00 s" in notice for notice in source.notices)


def test_frames_without_times_get_them(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.h264", frames=20, options={"bf": "2"})
    frames, source = frames_of(path)
    times = seconds(frames)
    assert len(times) == 20
    assert all(a < b for a, b in pairwise(times))
    assert times[-1] - times[0] == pytest.approx(19 / 25, abs=0.09)
    assert source.damage == []


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mjpeg"])
def test_avi_gives_every_frame_at_an_even_pace(tmp_path: Path, codec: str) -> None:
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {} if codec == "mjpeg" else {"bf": "2"}
    path = make_clip(tmp_path / "clip.avi", frames=20, codec=codec, options=options, pixel_format=pixel_format)
    frames, source = frames_of(path)
    times = seconds(frames)
    assert [b - a for a, b in pairwise(times)] == [Fraction(1, 25)] * 19
    assert source.damage == []


def test_names_with_colons_and_percent_signs_are_files(tmp_path: Path) -> None:
    path = tmp_path / "12:30 ward %03d.mp4"
    make_clip(tmp_path / "clip.mp4").rename(path)
    assert len(frames_of(path)[0]) == 12


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frames_of(overwritten(long_clip(tmp_path / "clip.mp4"), 0.4, 0.1))
    assert capfd.readouterr() == ("", "")


def test_random_damage_never_does_worse_than_a_refusal(tmp_path: Path) -> None:
    clips = [
        make_clip(tmp_path / "a.mp4", frames=40, options={"g": "12"}, container_options={"movflags": "faststart"}),
        make_clip(tmp_path / "b.mkv", frames=40, options={"g": "12", "bf": "2"}, audio="libopus"),
        make_clip(tmp_path / "c.ts", frames=40, codec="mpeg2video"),
    ]  # fmt: skip
    generator = random.Random(3)
    for round_ in range(60):
        data = bytearray(clips[round_ % 3].read_bytes())
        for _ in range(generator.choice([1, 3, 30])):
            place = generator.randrange(len(data))
            length = min(generator.choice([1, 20, 500]), len(data) - place)
            data[place : place + length] = generator.randbytes(length)
        damaged = tmp_path / f"damaged{clips[round_ % 3].suffix}"
        damaged.write_bytes(data)
        try:
            frames, source = frames_of(damaged)
        except SourceError:
            continue
        assert all(a < b for a, b in pairwise(seconds(frames)))
        assert all(d.message for d in source.damage)


ELSEWHERE = [
    (".mpg", "mpeg2video", "yuv420p"),
    (".asf", "wmv2", "yuv420p"),
    (".mkv", "mjpeg", "yuvj420p"),
    (".mov", "mjpeg", "yuvj420p"),
    (".mxf", "mpeg2video", "yuv420p"),
]


@pytest.mark.parametrize(("suffix", "codec", "pixel_format"), ELSEWHERE)
def test_zeros_within_a_file_are_reported_where_they_are(
    tmp_path: Path, suffix: str, codec: str, pixel_format: str
) -> None:
    """With intra frames only, every frame outside the damaged bytes is unchanged."""
    options = {"g": "1", "bf": "0"} if codec != "mjpeg" else {}
    clip = make_clip(
        tmp_path / f"clip{suffix}", frames=60, codec=codec, pixel_format=pixel_format, options=options, width=160,
        height=120,
    )  # fmt: skip
    whole, intact = frames_of(clip)
    assert intact.damage == []
    data = bytearray(clip.read_bytes())
    start = len(data) // 2
    data[start : start + len(data) // 6] = bytes(len(data) // 6)
    clip.write_bytes(data)
    frames, source = frames_of(clip)
    expected = {time: plane_bytes(frame.picture) for time, frame in zip(seconds(whole), whole, strict=True)}
    got = {time: plane_bytes(frame.picture) for time, frame in zip(seconds(frames), frames, strict=True)}
    wrong = {time for time, planes in expected.items() if got.get(time) != planes}
    assert got.keys() <= expected.keys()
    assert 5 < len(wrong) < 20
    assert len(source.damage) == 1
    damage = source.damage[0]
    assert damage.start_s is not None
    assert damage.end_s is not None
    missing = set(expected) - set(got)
    assert all(damage.start_s - 0.001 <= time < damage.end_s + 0.001 for time in missing)
    assert min(wrong) - 0.05 < damage.start_s
    assert damage.end_s < max(wrong) + 0.1


def test_damage_to_an_avi_without_an_index_is_reported_where_it_is(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", frames=60, codec="mjpeg", pixel_format="yuvj420p", width=160, height=120)
    data = bytearray(clip.read_bytes())
    del data[data.rfind(b"idx1") :]
    clip.write_bytes(data)
    assert frames_of(clip)[1].damage == []
    start = len(data) // 2
    data[start : start + len(data) // 6] = bytes(len(data) // 6)
    clip.write_bytes(data)
    frames, source = frames_of(clip)
    assert 45 < len(frames) < 55
    first = source.damage[0]
    assert first.start_s == pytest.approx(1.2, abs=0.2)
    assert "damaged there" in first.message


@pytest.mark.parametrize(("suffix", "codec"), [(".flv", "flv"), (".avi", "mpeg4"), (".mov", "mjpeg")])
def test_files_of_other_formats_cut_short_say_what_is_missing(tmp_path: Path, suffix: str, codec: str) -> None:
    faststart = {"movflags": "faststart"} if suffix == ".mov" else {}
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(
        tmp_path / f"clip{suffix}", frames=60, codec=codec, pixel_format=pixel_format, container_options=faststart
    )
    frames, source = frames_of(cut(clip, 0.6))
    assert 10 < len(frames) < 45
    assert source.damage[-1].end_s == pytest.approx(2.4, abs=0.1)
