"""Encoders: their options, and an early error for those that cannot be used."""

import os
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av.codec
import pytest
from av.codec.codec import Codec, UnknownCodecError

from polypstream.errors import ConfigError
from polypstream.realtime.video.encoding import Encoding, device_format, usable_codecs, working_format
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.writer import VideoWriter
from tests.clips import make_clip, read_video, rewritten, times_of


def video_encoders() -> list[str]:
    names = []
    for name in sorted(av.codec.codecs_available):
        try:
            if Codec(name, "w").type == "video":
                names.append(name)
        except UnknownCodecError:
            pass
    return names


def refusal_of(codec: str) -> str | None:
    try:
        Encoding(codec=codec)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("codec", [*video_encoders(), "av1", "vp9", "h265"])
def test_every_encoder_works_or_is_refused_before_anything_is_written(tmp_path: Path, codec: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", width=352, height=288, frames=5)
    refusal = refusal_of(codec)
    if refusal is not None:
        assert "use one of h264, hevc" in refusal
        return
    written = rewritten(clip, tmp_path / "out.mp4", codec=codec, preset=None, quality=18)
    assert len(read_video(written.path)) == 5
    if not any("rounded" in notice for notice in written.notices):
        assert times_of(written.path) == times_of(clip)


def test_every_codec_that_is_suggested_works(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", width=128, height=96, frames=12)
    names = usable_codecs().split(", ")
    assert {"h264", "hevc", "ffv1"} <= set(names)
    for name in names:
        written = rewritten(clip, tmp_path / f"{name}.mp4", codec=name, preset=None, quality=18)
        assert len(read_video(written.path)) == 12


@pytest.mark.parametrize("codec", ["gif_", "libwebp", "h264_nvenc_", "rawvideo", "a64multi", "pcm_s16le"])
def test_an_unusable_codec_is_refused_with_a_list_of_usable_ones(codec: str) -> None:
    with pytest.raises(ConfigError, match="use one of h264, hevc"):
        Encoding(codec=codec)


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc"])
def test_nvenc_is_refused_where_it_is_missing_with_the_alternatives(codec: str) -> None:
    refusal = refusal_of(codec)
    if refusal is None:
        pytest.skip("this machine has NVENC")
    assert refusal.startswith(f"{codec} video cannot be written here (")
    assert "needs a recent NVIDIA driver and NVENC, which data-center GPUs such as A100 and H100 lack" in refusal
    assert "; write the soft overlay, or use one of h264, hevc" in refusal


@pytest.mark.parametrize(
    ("codec", "decoded", "on_host", "on_device"),
    [
        ("h264_nvenc", "yuv420p", "yuv420p", "nv12"),
        ("h264_nvenc", "yuv420p10le", "yuv420p", None),
        ("hevc_nvenc", "yuv420p10le", "p010le", "p010le"),
        ("hevc_nvenc", "yuv444p", "yuv444p", None),
        ("libx264", "yuv420p", "yuv420p", None),
        ("libx265", "yuv420p10le", "yuv420p10le", None),
    ],
)
def test_nvenc_takes_frames_of_the_same_depth_from_both_memories(
    codec: str, decoded: str, on_host: str, on_device: str | None
) -> None:
    encoder = Codec(codec, "w")
    assert working_format(decoded, encoder, 64, 48) == on_host
    for width, height, expected in ((64, 48, on_device), (65, 48, None), (64, 47, None)):
        info: Any = SimpleNamespace(pixel_format=decoded, width=width, height=height)
        assert device_format(encoder, info) == expected


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "ffv1", "mpeg4", "prores_ks"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_clip_of_a_few_frames_is_written(tmp_path: Path, codec: str, frames: int, suffix: str) -> None:
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", frames=frames, width=160, height=120)
    written = rewritten(clip, tmp_path / f"out{suffix}", codec=codec, preset=None, quality=18)
    assert times_of(written.path) == times_of(clip)


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "mpeg1video", "h263p", "msmpeg4"])
def test_an_encoder_with_coarser_ticks_gets_them(tmp_path: Path, codec: str) -> None:
    if refusal_of(codec) is not None:
        return
    clip = make_clip(tmp_path / "clip.mkv", pts=range(0, 36_000, 3600), time_base=Fraction(1, 90_000))
    written = rewritten(clip, tmp_path / "out.mp4", codec=codec, preset=None, quality=18)
    assert times_of(written.path) == times_of(clip)


def test_nothing_is_printed_by_the_av1_encoder(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    code = (
        "import sys; from pathlib import Path; from tests.clips import rewritten; "
        "rewritten(Path(sys.argv[1]), Path(sys.argv[2]), codec='av1', preset=None, quality=30)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(clip), str(tmp_path / "out.mp4")],
        capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def schedulers() -> set[int]:
    """Scheduling policies of all threads of this process."""
    found = set()
    for thread in (int(each.name) for each in Path("/proc/self/task").iterdir()):
        with suppress(ProcessLookupError):
            found.add(os.sched_getscheduler(thread))
    return found


def test_no_thread_is_given_real_time_scheduling(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", width=128, height=96, frames=3)
    encoding = Encoding(codec="av1")  # as root, SVT-AV1 would give it to all of its threads and to this one
    assert schedulers() == {os.SCHED_OTHER}
    with VideoReader(clip) as source, VideoWriter(tmp_path / "out.mkv", source=source, encoding=encoding) as writer:
        for frame in source:
            assert isinstance(frame, Frame)
            writer.write_picture(writer.prepared(frame))
            assert schedulers() == {os.SCHED_OTHER}
