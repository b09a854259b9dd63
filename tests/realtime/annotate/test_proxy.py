"""The proxy has every frame of the records, with the same number, at a constant rate, and supports fast seeking."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from polypstream.errors import OutputError, SourceError
from polypstream.realtime.annotate.outputs import proxy_path
from polypstream.realtime.annotate.proxy import KEYFRAME_INTERVAL, proxy_rate, write_proxy
from polypstream.realtime.video.reader import VideoReader
from tests.clips import make_clip
from tests.recordings import CLIPS


def luma(path: Path) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    with VideoReader(path) as reader:
        return [frame.picture.to_ndarray(format="gray").astype(float) for frame in reader.frames()]


@pytest.mark.parametrize("name", CLIPS)
def test_frame_numbers_are_those_of_the_source(tmp_path: Path, name: str) -> None:
    video = CLIPS[name](tmp_path)
    path = proxy_path(video, tmp_path / "out")
    rate = proxy_rate(Fraction(30000, 1001) if name == "ntsc" else Fraction(2037, 100), is_constant_rate=name == "ntsc")
    counted: list[int] = []
    write_proxy(video, path, rate=rate, on_frame=counted.append)
    assert counted == list(range(1, 13))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate == (Fraction(30000, 1001) if name == "ntsc" else 20)
        frames = list(container.decode(stream))
        assert [(frame.pts or 0) * stream.time_base * rate for frame in frames] == list(range(12))
        assert 3 not in {int(frame.pict_type) for frame in frames}  # no B-frames
    sources, proxies = luma(video), luma(path)
    assert len(sources) == len(proxies) == 12
    for index, proxy in enumerate(proxies):
        differences = [float(np.abs(proxy - source).mean()) for source in sources]
        assert int(np.argmin(differences)) == index


def test_key_frames_are_close_and_the_index_comes_first(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mkv", frames=60, options={"g": "60", "sc_threshold": "0"})
    write_proxy(video, tmp_path / "clip_proxy.mp4", rate=Fraction(25))
    with av.open(str(tmp_path / "clip_proxy.mp4")) as container:
        keys = [n for n, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe]
    assert max(np.diff([*keys, 60])) <= KEYFRAME_INTERVAL
    data = (tmp_path / "clip_proxy.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_rotation_and_pixel_aspect_are_kept(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mp4", rotation=90, sample_aspect_ratio=Fraction(16, 11))
    write_proxy(video, tmp_path / "clip_proxy.mp4", rate=Fraction(25))
    with VideoReader(tmp_path / "clip_proxy.mp4") as reader:
        assert (reader.info.rotation, reader.info.sample_aspect_ratio) == (90, Fraction(16, 11))


def test_a_proxy_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_proxy(video, tmp_path / "file" / "clip_proxy.mp4", rate=Fraction(25))
    with pytest.raises(SourceError, match="there is no file"):
        write_proxy(tmp_path / "missing.mp4", tmp_path / "missing_proxy.mp4", rate=Fraction(25))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "file"]
