import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from threading import Thread
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st

from polypstream.errors import ConfigError, OutputError
from polypstream.realtime.video.encoding import working_format
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import StreamPacket, VideoReader
from polypstream.realtime.video.writer import Encoding, NullWriter, VideoWriter, Writer
from polypstream.synthetic import SyntheticClip, write_clip
from tests.clips import make_clip, picture, plane_bytes, read_packets, read_video, rewritten, times_of

FAST = Encoding(preset="ultrafast", quality="lossless")


def folder_of(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


# what is kept


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "gray"])
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("codec", ["h264", "hevc", "ffv1"])
def test_lossless_output_equals_the_source_bit_for_bit(
    tmp_path: Path, codec: str, bits: int, pixel_format: str
) -> None:
    name = {(8, "gray"): "gray", (10, "gray"): "gray10le"}.get((bits, pixel_format), pixel_format)
    name = f"{name}10le" if bits == 10 and pixel_format != "gray" else name
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", pixel_format=name, frames=5)
    writer = rewritten(clip, tmp_path / "out.mkv", codec=codec)
    before, after = read_video(clip), read_video(writer.path)
    assert [s.planes for s in before] == [s.planes[: len(before[0].planes)] for s in after]
    assert writer.notices == []
    if pixel_format != "gray" or codec != "h264":  # FFmpeg's H.264 decoder adds neutral chroma to gray
        assert after[0].pixel_format == name


def test_full_range_and_semi_planar_frames_are_encoded_unconverted(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", pixel_format="yuvj420p")
    for codec in ("h264", "hevc", "ffv1"):
        out = rewritten(clip, tmp_path / f"{codec}.mkv", codec=codec).path
        assert [s.planes for s in read_video(out)] == [s.planes for s in read_video(clip)]
        with VideoReader(out) as source:
            assert source.info.color_range == 2
    assert working_format("nv12", Encoding().encoder, 64, 48) == "nv12"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "ffv1"])
def test_aspect_color_and_rotation_are_kept(tmp_path: Path, codec: str, suffix: str) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4", sample_aspect_ratio=Fraction(16, 11), colors=(1, 5, 6, 7), rotation=90, frames=3
    )
    writer = rewritten(clip, tmp_path / f"out{suffix}", codec=codec)
    with VideoReader(clip) as before, VideoReader(writer.path) as after:
        fields = ["rotation", "display_matrix", "color_range", "colorspace", "color_primaries", "color_trc"]
        if (codec, suffix) == ("ffv1", ".mkv"):
            assert any("aspect ratio of 16/11" in notice for notice in writer.notices)
        else:
            fields.append("sample_aspect_ratio")
        assert {f: getattr(after.info, f) for f in fields} == {f: getattr(before.info, f) for f in fields}


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_rotation_is_kept(tmp_path: Path, rotation: int, suffix: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", rotation=rotation, frames=3)
    out = rewritten(clip, tmp_path / f"out{suffix}").path
    assert [s.rotation % 360 for s in read_video(out)] == [rotation % 360] * 3


def test_an_aspect_that_only_the_container_states_is_kept(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", sample_aspect_ratio=Fraction(4, 3), codec="mpeg4", frames=3)
    data = clip.read_bytes()
    place = data.index(b"pasp")
    clip.write_bytes(data[: place + 4] + (16).to_bytes(4, "big") + (15).to_bytes(4, "big") + data[place + 12 :])
    with VideoReader(rewritten(clip, tmp_path / "out.mp4").path) as after:
        assert after.info.sample_aspect_ratio == Fraction(16, 15)


@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_interlaced_frames_stay_interlaced(tmp_path: Path, codec: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", is_interlaced=True)
    out = rewritten(clip, tmp_path / "out.mkv", codec=codec).path
    assert [s.is_interlaced for s in read_video(out)] == [True] * 12
    assert [s.planes for s in read_video(out)] == [s.planes for s in read_video(clip)]


def test_sound_chapters_and_metadata_are_kept(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4", audio="aac", chapters=True, metadata={"title": "a film", "ward": "3"},
        container_options={"movflags": "use_metadata_tags"}, second_video=True, cover=True, options={"bf": "3"},
    )  # fmt: skip
    writer = rewritten(clip, tmp_path / "out.mp4")
    assert writer.notices == []
    with av.open(str(clip)) as before, av.open(str(writer.path)) as after:
        assert [s.type for s in after.streams] == [s.type for s in before.streams]
        assert [s.disposition for s in after.streams] == [s.disposition for s in before.streams]
        assert [s.language for s in after.streams] == [s.language for s in before.streams]
        assert after.streams.audio[0].metadata.get("name") == "theatre"
        assert after.streams.audio[0].start_time == before.streams.audio[0].start_time
        assert {key: after.metadata[key] for key in ("title", "ward")} == {"title": "a film", "ward": "3"}
        titles = [[(c["metadata"], c["start"] * (c["time_base"] or 0)) for c in x.chapters()] for x in (before, after)]
        assert titles[0] == titles[1]
        assert len(titles[0]) == 2
        others = [s.index for s in before.streams if s.type in {"audio", "video"} and s.index]
    for index in others:
        assert read_packets(writer.path, index) == read_packets(clip, index)


def test_streams_unsupported_by_mp4_give_a_matroska_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", audio="pcm_s16le", subtitles="subrip", attachment=True, second_video=True)
    writer = rewritten(clip, tmp_path / "out.mp4")
    assert writer.path == tmp_path / "out.mkv"
    assert folder_of(tmp_path) == ["clip.mkv", "out.mkv"]
    assert any("subrip" in notice and "out.mkv" in notice for notice in writer.notices)
    for index in (1, 2, 3):
        assert read_packets(writer.path, index) == read_packets(clip, index)
    with av.open(str(writer.path)) as after:
        assert [s.type for s in after.streams] == ["video", "audio", "subtitle", "video", "attachment"]
        assert after.streams[2].language == "deu"
        assert after.streams.attachments[0].data == b"a note"
    assert times_of(writer.path) == times_of(clip)


def test_a_cover_moves_into_a_matroska_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", cover=True)
    writer = rewritten(clip, tmp_path / "out.mkv")
    with av.open(str(writer.path)) as after:
        cover = after.streams.video[1]
        assert cover.disposition == Disposition.attached_pic
    assert [data for _, data in read_packets(writer.path, 1)] == [data for _, data in read_packets(clip, 1)]


def test_a_stream_that_no_container_supports_is_dropped_and_reported(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", codec="mpeg4", audio="adpcm_ms")
    writer = rewritten(clip, tmp_path / "out.mkv")
    assert len(read_video(writer.path)) == 12
    with av.open(str(writer.path)) as after:
        if not after.streams.audio:
            assert any("adpcm_ms" in notice for notice in writer.notices)


def test_metadata_in_another_encoding_does_not_stop_anything(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", metadata={"title": "Krankenhaus XXX"})
    clip.write_bytes(clip.read_bytes().replace(b"Krankenhaus XXX", b"Krankenhaus \xc4\xd6\xdc"))
    out = rewritten(clip, tmp_path / "out.mkv").path
    assert b"Krankenhaus \xc4\xd6\xdc" in out.read_bytes()


# times


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.integers(1, 2_000), min_size=1, max_size=12),
    start=st.integers(0, 100_000),
    time_base=st.sampled_from(
        [Fraction(1, 25), Fraction(1, 1000), Fraction(1001, 30_000), Fraction(1, 90_000), Fraction(1, 1_000_000)]
    ),
    b_frames=st.integers(0, 3),
)
def test_times_survive_exactly_in_mp4(steps: list[int], start: int, time_base: Fraction, b_frames: int) -> None:
    pts = [start % round(9 / time_base)]  # a file that starts later is moved to 0
    for step in steps:
        pts.append(pts[-1] + step)
    with tempfile.TemporaryDirectory() as folder:
        options = {"bf": str(b_frames), "preset": "veryfast"}
        clip = make_clip(
            Path(folder) / "clip.mp4", pts=pts, time_base=time_base, last_duration=3, width=16, height=16,
            options=options, container_options={"movie_timescale": str(time_base.denominator)},
        )  # fmt: skip
        out = rewritten(clip, Path(folder) / "out.mp4", preset="veryfast").path
        before, after = read_video(clip), read_video(out)
    assert [s.time for s in after] == [s.time for s in before] == [p * time_base for p in pts]
    assert after[-1].duration == before[-1].duration == 3 * time_base


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_millisecond_times_survive_in_both_containers(tmp_path: Path, suffix: str) -> None:
    pts = [120, 133, 171, 200, 500, 501, 540]
    clip = make_clip(tmp_path / "clip.mkv", pts=pts, time_base=Fraction(1, 1000), last_duration=40, options={"bf": "2"})
    writer = rewritten(clip, tmp_path / f"out{suffix}", preset="veryfast")
    assert times_of(writer.path) == times_of(clip)
    assert writer.notices == []


def test_matroska_says_when_it_rounds(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", time_base=Fraction(1001, 30_000))
    writer = rewritten(clip, tmp_path / "out.mkv")
    assert [notice for notice in writer.notices if "rounded to 1 ms" in notice]
    assert max(abs(a - b) for a, b in zip(times_of(writer.path), times_of(clip), strict=True)) <= Fraction(1, 2000)


@pytest.mark.parametrize("audio_start", [-4800, 0, 48_000])
def test_sound_stays_in_sync_with_the_video(tmp_path: Path, audio_start: int) -> None:
    pts = [i * 3600 + 90_000 for i in range(12)]
    clip = make_clip(
        tmp_path / "clip.mp4", audio="aac", audio_start=audio_start, pts=pts, time_base=Fraction(1, 90_000),
        options={"bf": "3"}, container_options={"movie_timescale": "1440000"},
    )  # fmt: skip
    out = rewritten(clip, tmp_path / "out.mp4", preset="veryfast").path
    assert times_of(out) == times_of(clip)
    assert read_packets(out, 1) == read_packets(clip, 1)


def test_transport_streams_keep_their_times(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", audio="mp2", options={"bf": "2"})
    writer = rewritten(clip, tmp_path / "out.mp4", preset="veryfast")
    assert times_of(writer.path) == times_of(clip)
    assert [t for t, _ in read_packets(writer.path, 1)] == [t for t, _ in read_packets(clip, 1)]


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [
        (".mpg", "mpeg2video", "yuv420p"),
        (".ts", "mpeg2video", "yuv420p"),
        (".avi", "mpeg4", "yuv420p"),
        (".avi", "libx264", "yuv420p"),
        (".webm", "libvpx-vp9", "yuv420p"),
        (".webm", "libvpx", "yuv420p"),
        (".mov", "prores_ks", "yuv422p10le"),
        (".wmv", "wmv2", "yuv420p"),
        (".flv", "libx264", "yuv420p"),
        (".mkv", "mjpeg", "yuvj422p"),
        (".mp4", "libx265", "yuv420p10le"),
    ],
)
def test_other_containers_and_codecs_are_preserved(tmp_path: Path, suffix: str, codec: str, pixel_format: str) -> None:
    b_frames = {"bf": "2"} if codec in {"mpeg2video", "mpeg4", "libx264"} else {}
    clip = make_clip(
        tmp_path / f"clip{suffix}", codec=codec, pixel_format=pixel_format, frames=15, options=b_frames, width=128
    )
    writer = rewritten(clip, tmp_path / "out.mp4")
    with VideoReader(clip) as source:
        frames = [item for item in source if isinstance(item, Frame)]
        assert source.damage == []
    after = read_video(writer.path)
    assert len(frames) == 15
    assert [s.planes for s in after] == [plane_bytes(frame.picture) for frame in frames]
    assert [s.time for s in after] == [frame.pts * frame.time_base for frame in frames]


def test_pauses_in_an_avi_are_not_frames_and_keep_their_length(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", codec="mpeg4", pts=[0, 1, 5, 6, 20])
    writer = rewritten(clip, tmp_path / "out.mp4")
    assert [time * 25 for time in times_of(writer.path)] == [0, 1, 5, 6, 20]


def test_hdr_metadata_is_reported_as_left_out(tmp_path: Path) -> None:
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    params = f"log-level=none:hdr10=1:master-display={display}:max-cll=1000,400"
    clip = make_clip(
        tmp_path / "clip.mkv", codec="libx265", pixel_format="yuv420p10le", options={"x265-params": params}
    )
    assert any("HDR" in notice for notice in rewritten(clip, tmp_path / "out.mkv").notices)


def test_times_that_stand_still_are_moved_by_one_tick(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    with VideoReader(clip) as source, VideoWriter(tmp_path / "out.mp4", source=source, encoding=FAST) as writer:
        for item in source:
            assert isinstance(item, Frame)
            item.picture.pts = min(item.pts, 3 * 512)
            writer.write(item)
    ticks = [int(time * 12_800) for time in times_of(writer.path)]
    assert ticks == [0, 512, 1024, 1536, 1537, 1538]


# pixel formats and sizes


@pytest.mark.parametrize(
    ("source", "codec", "target"),
    [
        ("rgb24", "h264", "yuv444p"), ("gbrp", "hevc", "yuv444p"), ("bgr0", "ffv1", "yuv444p"),
        ("pal8", "h264", "yuv444p"),
        ("yuva420p", "h264", "yuv420p"), ("yuv411p", "h264", "yuv422p"), ("yuv440p", "h264", "yuv444p"),
        ("uyvy422", "h264", "yuv422p"), ("yuv410p", "hevc", "yuv420p"), ("yuv420p12le", "h264", "yuv420p10le"),
        ("yuv420p12le", "hevc", "yuv420p12le"), ("yuv422p16le", "hevc", "yuv422p12le"),
        ("p010le", "h264", "yuv420p10le"),
        ("gray12le", "h264", "gray10le"), ("gray", "mpeg4", "yuv420p"), ("yuvj420p", "ffv1", "yuv420p"),
        ("yuva444p", "ffv1", "yuva444p"), ("nv12", "h264", "nv12"), ("nv12", "hevc", "yuv420p"),
        ("ya8", "h264", "gray"),
    ],
)  # fmt: skip
def test_the_working_format_is_the_nearest_planar_one(source: str, codec: str, target: str) -> None:
    assert working_format(source, Encoding(codec=codec).encoder, 64, 48) == target


@pytest.mark.parametrize(("size", "target"), [((127, 97), "yuv444p"), ((128, 97), "yuv422p"), ((127, 96), "yuv444p")])
def test_odd_sizes_get_chroma_that_fits(size: tuple[int, int], target: str) -> None:
    assert working_format("yuv420p", Encoding().encoder, *size) == target
    assert working_format("yuv420p", Encoding(codec="ffv1").encoder, *size) == "yuv420p"


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_an_odd_size_keeps_its_size_and_luma(tmp_path: Path, codec: str) -> None:
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", width=127, height=97, frames=3)
    writer = rewritten(clip, tmp_path / "out.mkv", codec=codec)
    assert writer.notices == [f"4:2:0 with odd size 127x97 is written as 4:4:4: {codec.upper()} does not support it"]
    assert [s.planes[0] for s in read_video(writer.path)] == [s.planes[0] for s in read_video(clip)]


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgr0", "pal8", "gbrp", "uyvy422", "yuva420p", "yuv411p", "yuv440p"])
def test_other_pixel_formats_are_converted_once_with_their_colors(tmp_path: Path, pixel_format: str) -> None:
    clip = make_clip(tmp_path / "clip.nut", codec="rawvideo", pixel_format=pixel_format, frames=3)
    writer = rewritten(clip, tmp_path / "out.mp4")
    with av.open(str(clip)) as before, av.open(str(writer.path)) as after:
        for old, new in zip(before.decode(video=0), after.decode(video=0), strict=True):
            if pixel_format == "pal8":
                continue
            rgb = [f.to_ndarray(format="rgb24").astype(int) for f in (old, new)]
            assert np.abs(rgb[0] - rgb[1]).mean() < 8
    if not pixel_format.startswith("uyvy"):
        assert writer.notices


def test_gray_keeps_its_values_where_the_encoder_knows_no_gray(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", pixel_format="gray", frames=3)
    out = rewritten(clip, tmp_path / "out.mkv", codec="libvpx-vp9").path
    assert [s.planes[0] for s in read_video(out)] == [s.planes[0] for s in read_video(clip)]


def test_a_size_that_changes_midway_is_scaled_to_the_first(tmp_path: Path) -> None:
    small = make_clip(tmp_path / "small.ts", frames=10)
    large = make_clip(tmp_path / "large.ts", frames=10, width=96, height=64, pixel_format="yuv422p")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    writer = rewritten(joined, tmp_path / "out.mp4")
    assert len(read_video(writer.path)) == 20
    assert {len(s.planes[0]) for s in read_video(writer.path)} == {64 * 48}
    assert any("change from 64x48 yuv420p to 96x64 yuv422p" in notice for notice in writer.notices)


# drawing


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3", "preset": "veryfast"}])
def test_drawing_reaches_no_other_frame(tmp_path: Path, options: dict[str, str]) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=24, options=options)
    untouched = read_video(clip)
    with VideoReader(clip) as source, VideoWriter(tmp_path / "out.mp4", source=source, encoding=FAST) as writer:
        for item in source:
            assert isinstance(item, Frame)
            assert plane_bytes(item.picture) == untouched[item.index].planes
            drawn = writer.prepared(item)
            planes: Any = drawn.planes
            for plane in planes:
                np.frombuffer(plane, dtype=np.uint8)[:] = 99
            writer.write_picture(drawn)
    assert all(set(plane) == {99} for shown in read_video(writer.path) for plane in shown.planes)


def test_a_prepared_frame_has_the_encoders_format(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.nut", codec="rawvideo", pixel_format="rgb24", frames=2)
    with VideoReader(clip) as source, VideoWriter(tmp_path / "out.mp4", source=source, encoding=FAST) as writer:
        for item in source:
            assert isinstance(item, Frame)
            prepared = writer.prepared(item)
            assert (prepared.format.name, prepared.pts, prepared.colorspace) == ("yuv444p", item.pts, 5)
            writer.write_picture(prepared)


def test_reading_and_writing_may_live_in_two_threads(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=40, audio="aac")
    items: list[Frame | StreamPacket] = []
    with VideoReader(clip) as source, VideoWriter(tmp_path / "out.mp4", source=source, encoding=FAST) as writer:
        reader = Thread(target=lambda: items.extend(source))
        reader.start()
        written = 0
        while reader.is_alive() or written < len(items):
            if written < len(items):
                writer.write(items[written])
                written += 1
        reader.join()
    assert [s.planes for s in read_video(writer.path)] == [s.planes for s in read_video(clip)]


def test_a_null_sink_takes_everything(tmp_path: Path) -> None:
    writer: Writer
    with VideoReader(make_clip(tmp_path / "clip.mp4", audio="aac")) as source, NullWriter() as writer:
        for item in source:
            if isinstance(item, Frame):
                writer.write_picture(writer.prepared(item))
            writer.write(item)
    assert folder_of(tmp_path) == ["clip.mp4"]


# names, endings and errors


def write_some(tmp_path: Path, name: str, count: int, error: BaseException | None) -> VideoWriter:
    clip = make_clip(tmp_path / "clip.mp4", frames=20, audio="aac")
    with VideoReader(clip) as source, VideoWriter(tmp_path / name, source=source, encoding=FAST) as writer:
        for item in source:
            if isinstance(item, Frame) and item.index == count:
                if error is not None:
                    raise error
                break
            writer.write(item)
    return writer


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
def test_an_interrupt_leaves_a_playable_partial_file(tmp_path: Path, error: BaseException, suffix: str) -> None:
    (tmp_path / f"out{suffix}").write_bytes(b"from yesterday")
    with pytest.raises(type(error)):
        write_some(tmp_path, f"out{suffix}", 9, error)
    assert folder_of(tmp_path) == sorted(["clip.mp4", f"out.partial{suffix}", f"out{suffix}"])
    assert (tmp_path / f"out{suffix}").read_bytes() == b"from yesterday"
    whole = read_video(tmp_path / "clip.mp4")[:9]
    assert [s.planes for s in read_video(tmp_path / f"out.partial{suffix}")] == [s.planes for s in whole]


def test_an_interrupt_before_the_first_frame_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_some(tmp_path, "out.mp4", 0, KeyboardInterrupt())
    assert folder_of(tmp_path) == ["clip.mp4"]


def test_a_normal_end_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"from yesterday")
    writer = write_some(tmp_path, "out.mp4", 20, None)
    assert folder_of(tmp_path) == ["clip.mp4", "out.mp4"]
    assert len(read_video(writer.path)) == 20
    writer.finish()  # once more does no harm
    writer.abandon()
    with pytest.raises(OutputError, match="already closed"):
        writer.write_picture(picture(0, width=64, height=48))


def test_an_end_without_frames_is_an_error(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with (
        VideoReader(clip) as source,
        pytest.raises(OutputError, match="no frame was written"),
        VideoWriter(tmp_path / "out.mp4", source=source, encoding=FAST),
    ):
        pass
    assert folder_of(tmp_path) == ["clip.mp4"]


def opened(clip: Path, target: Path, encoding: Encoding = FAST) -> None:
    with VideoReader(clip) as source:
        VideoWriter(target, source=source, encoding=encoding)


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file") as caught:
        opened(clip, tmp_path / "file" / "deeper" / "out.mp4")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="/proc"):
        opened(clip, Path("/proc/out.mp4"))
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        opened(clip, tmp_path / "out.mp4")
    assert folder_of(tmp_path) == ["clip.mp4", "file", "out.mp4"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    out = rewritten(make_clip(tmp_path / "clip.mp4"), tmp_path / "a" / "b" / "12:30 %d.mp4").path
    with VideoReader(out) as source:
        assert len(list(source)) == 12


def test_the_source_is_never_written_over(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    before = clip.read_bytes()
    (tmp_path / "link.mp4").symlink_to(clip)
    for target in (clip, tmp_path / "link.mp4"):
        with pytest.raises(OutputError, match="is the input video"):
            opened(clip, target)
    partial = clip.rename(tmp_path / "clip.partial.mp4")
    with pytest.raises(OutputError, match="is the input video"):
        opened(partial, tmp_path / "clip.mp4")
    assert partial.read_bytes() == before


FULL_DISK = """
import resource, sys
from pathlib import Path
from polypstream.errors import OutputError
from tests.clips import rewritten
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    rewritten(Path(sys.argv[1]), Path(sys.argv[2]))
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("limit", [0, 60_000])
def test_a_disk_too_full_for_any_frame_is_one_line_and_leaves_nothing(tmp_path: Path, suffix: str, limit: int) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=12, width=320, height=240)
    command = [sys.executable, "-c", FULL_DISK, str(clip), str(tmp_path / f"out{suffix}"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert f"out{suffix} cannot be written" in done.stdout
    assert "larger than the system allows" in done.stdout
    assert folder_of(tmp_path) == ["clip.mp4"]


def test_a_full_device_is_reported_as_such(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "out.partial.mkv").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="disk is full"):
        rewritten(clip, tmp_path / "out.mkv")
    assert folder_of(tmp_path) == ["clip.mp4"]


def test_the_default_is_smaller_than_the_fastest_preset_and_a_named_one_stands_alone(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip, SyntheticClip(width=320, height=240, seconds=2))
    default, fastest = (
        rewritten(clip, tmp_path / f"{preset}.mp4", preset=preset, quality=18).path.stat().st_size
        for preset in (None, "ultrafast")
    )
    assert default < 0.9 * fastest
    assert Encoding(preset="veryfast").options() == {"preset": "veryfast", "crf": "18"}
    assert Encoding(codec="hevc").options()["preset"] == "superfast"


def test_a_preset_that_the_encoder_refuses_is_one_line(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with pytest.raises(OutputError, match="preset"):
        rewritten(clip, tmp_path / "out.mp4", preset="nonsense")
    assert folder_of(tmp_path) == ["clip.mp4"]
    (tmp_path / "out.partial.mp4").write_bytes(b"what was saved yesterday")
    with pytest.raises(OutputError, match="preset"):
        rewritten(clip, tmp_path / "out.mp4", preset="nonsense")
    assert (tmp_path / "out.partial.mp4").exists()


def test_an_interrupt_while_finishing_leaves_a_playable_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_some(tmp_path, "out.mp4", 20, None)
    assert len(read_video(tmp_path / "out.partial.mp4")) == 20
    assert folder_of(tmp_path) == ["clip.mp4", "out.partial.mp4"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"codec": "nonsense"}, "no encoder 'nonsense'"),
        ({"codec": "aac"}, "encodes audio"),
        ({"quality": 99}, "between 0"),
        ({"codec": "mpeg4", "quality": "lossless"}, "no lossless mode"),
    ],
)
def test_impossible_encodings_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Encoding(**fields)


def test_an_unknown_container_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a video file name"):
        opened(make_clip(tmp_path / "clip.mp4"), tmp_path / "out.xyz")


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "libvpx-vp9"])
def test_quality_decides_the_size(tmp_path: Path, codec: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", width=160, height=120)
    sizes = [rewritten(clip, tmp_path / f"{q}.mp4", codec=codec, quality=q).path.stat().st_size for q in (10, 40)]
    assert sizes[0] > sizes[1] * 1.2


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    for codec in ("h264", "hevc", "ffv1"):
        rewritten(clip, tmp_path / f"{codec}.mkv", codec=codec)
    assert capfd.readouterr() == ("", "")


@pytest.mark.data
def test_a_real_clip_keeps_its_frames_times_and_aspect(tmp_path: Path) -> None:
    if "POLYPSTREAM_TEST_DATA" not in os.environ:
        pytest.skip("POLYPSTREAM_TEST_DATA names no folder")
    clip = Path(os.environ["POLYPSTREAM_TEST_DATA"]) / "video" / "apparent.mp4"
    writer = rewritten(clip, tmp_path / "out.mp4")
    before, after = read_video(clip), read_video(writer.path)
    assert len(before) == 229
    assert [s.time for s in after] == [s.time for s in before]
    assert [s.planes for s in after] == [s.planes for s in before]
    with VideoReader(clip) as one, VideoReader(writer.path) as two:
        assert one.info.sample_aspect_ratio == two.info.sample_aspect_ratio == Fraction(4, 3)
