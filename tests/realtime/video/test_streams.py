"""Streams other than the video, written by other programs: preserved in the overlay, or named in a notice."""

import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import make_clip, read_packets, read_video, rewritten, times_of

VIDEO = ("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=2")
SOUND = ("-f", "lavfi", "-i", "sine=d=2:r=44100")


def made(path: Path, *arguments: object) -> Path:
    """A file written by the ffmpeg command; skipped where it is missing or cannot write it."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("there is no ffmpeg")
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this ffmpeg does not write it: {done.stderr[-200:]}")
    return path


def sound_of(path: Path) -> np.ndarray:
    """Samples of the first sound stream, all channels one after another."""
    resampler = av.AudioResampler(format="s16p", layout="mono", rate=8000)
    with av.open(str(path)) as container:
        frames = [small for frame in container.decode(audio=0) for small in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(int)


def sound_start_of(path: Path) -> float:
    """Time in seconds at which the first sound is played."""
    with av.open(str(path)) as container:
        frame = next(container.decode(audio=0))
        return float((frame.pts or 0) * (frame.time_base or 0))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le", "pcm_alaw", "pcm_mulaw"])
def test_sound_without_a_channel_layout_is_copied(tmp_path: Path, codec: str, channels: int) -> None:
    clip = made(tmp_path / "clip.avi", *VIDEO, *SOUND, "-c:v", "mjpeg", "-c:a", codec, "-ac", channels)
    writer = rewritten(clip, tmp_path / "out.mp4")
    assert b"".join(d for _, d in read_packets(writer.path, 1)) == b"".join(d for _, d in read_packets(clip, 1))
    assert len(read_video(writer.path)) == 50


@pytest.mark.parametrize("rate", ["25", "30000/1001"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mxf"])
@pytest.mark.parametrize("target", [".mp4", ".mkv", ".mov"])
def test_a_timecode_is_kept(tmp_path: Path, suffix: str, rate: str, target: str) -> None:
    code = "01:00:00:00" if rate == "25" else "01:00:00;10"
    codec = "mpeg2video" if suffix == ".mxf" else "libx264"
    video = ("-f", "lavfi", "-i", f"testsrc2=s=160x120:r={rate}:d=1")
    clip = made(tmp_path / f"clip{suffix}", *video, "-c:v", codec, "-timecode", code)
    writer = rewritten(clip, tmp_path / f"out{target}")
    assert writer.path.suffix == target
    assert not any("left out" in notice for notice in writer.notices)
    with av.open(str(writer.path)) as after:
        tags = {**after.metadata, **after.streams.video[0].metadata}
        assert tags.get("timecode", tags.get("TIMECODE")) == code
        assert [s.type for s in after.streams] == (["video"] if target == ".mkv" else ["video", "data"])
    assert len(read_video(writer.path)) in (25, 30)


@pytest.mark.parametrize(
    ("suffix", "video", "codec", "rate"),
    [
        (".wmv", "wmv2", "wmav2", 44100),
        (".wmv", "wmv2", "wmav1", 44100),
        (".avi", "mpeg4", "adpcm_ms", 44100),
        (".avi", "mpeg4", "adpcm_ima_wav", 44100),
        (".avi", "mpeg4", "adpcm_yamaha", 44100),
        (".avi", "mpeg4", "g726", 8000),
        (".avi", "mpeg4", "g722", 16000),
        (".avi", "mpeg4", "g723_1", 8000),
        (".avi", "mpeg4", "libgsm_ms", 8000),
        (".avi", "mpeg4", "pcm_s64le", 44100),
        (".nut", "mpeg4", "pcm_s16le_planar", 44100),
        (".nut", "mpeg4", "pcm_u16le", 44100),
    ],
)
def test_sound_that_no_container_supports_is_stored_as_pcm(
    tmp_path: Path, suffix: str, video: str, codec: str, rate: int
) -> None:
    clip = made(
        tmp_path / f"clip{suffix}", *VIDEO, *SOUND, "-c:v", video, "-c:a", codec, "-ar", rate, "-ac", 1, "-strict", -2
    )
    writer = rewritten(clip, tmp_path / "out.mp4")
    assert writer.path == tmp_path / "out.mkv"
    assert any("is stored as PCM" in notice for notice in writer.notices)
    before, after = sound_of(clip), sound_of(writer.path)
    assert abs(len(before) - len(after)) <= 8
    shared = min(len(before), len(after))
    assert np.abs(before[:shared] - after[:shared]).max() <= 40
    assert np.abs(after).max() > 1000
    assert abs(sound_start_of(clip) - sound_start_of(writer.path)) < 0.002


def test_late_subtitles_do_not_delay_the_file(tmp_path: Path) -> None:
    (tmp_path / "late.srt").write_text("1\n00:00:07,000 --> 00:00:07,500\nlate\n")
    silent = make_clip(tmp_path / "silent.mp4", frames=250)
    clip = made(tmp_path / "clip.mp4", "-i", silent, "-i", tmp_path / "late.srt", "-c:v", "copy", "-c:s", "mov_text")
    from polypstream.realtime.video.reader import VideoReader
    from polypstream.realtime.video.writer import Encoding, VideoWriter

    with (
        VideoReader(clip) as reader,
        VideoWriter(tmp_path / "out.mp4", source=reader, encoding=Encoding()) as writer,
    ):
        items = iter(reader)
        for _ in range(120):
            writer.write(next(items))
        shutil.copy(writer.partial_path, tmp_path / "killed.mp4")
        for item in items:
            writer.write(item)
    assert len(times_of(tmp_path / "killed.mp4")) > 60
    assert times_of(writer.path) == times_of(clip)
    assert [time for time, data in read_packets(writer.path, 1) if b"late" in data] == [7]
