"""AVI files from old recorders: packed B-frames, dropped frames, and damage located by the index."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from polypstream.realtime.video.damage import Damage
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import StreamPacket, VideoReader
from tests.clips import make_clip, plane_bytes

FILLER = bytes.fromhex("000001b6 5f 40")
"""A frame that is not coded, as written by XviD."""
VOP = b"\x00\x00\x01\xb6"


def read(path: Path) -> tuple[list[Frame], list[Damage], dict[Fraction, bytes]]:
    """Frames, damage, and audio packets by their time."""
    audio: dict[Fraction, bytes] = {}
    frames = []
    with VideoReader(path) as reader:
        for item in reader:
            if isinstance(item, Frame):
                frames.append(item)
            elif isinstance(item, StreamPacket) and item.packet.pts is not None:
                audio[item.packet.pts * item.packet.time_base] = bytes(item.packet)
        return frames, reader.damage, audio


def times(frames: list[Frame]) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames]


def mpeg4_packets(path: Path, **changes: Any) -> tuple[Any, list[bytes]]:
    """Encoded frames in decoding order, and a container kept open that holds their stream."""
    container = av.open(str(make_clip(path, codec="mpeg4", **changes)))
    return container, [bytes(packet) for packet in container.demux(video=0) if packet.size]


def packed(packets: list[bytes]) -> list[bytes]:
    """Output of a packing encoder for packets in decoding order: one packet per displayed frame."""
    slots: list[bytes] = []
    owes_filler = False
    for data in packets:
        is_b_frame = data[data.find(VOP) + 4] >> 6 == 2
        if is_b_frame and not owes_filler:
            slots[-1] += data
            owes_filler = True
            continue
        if not is_b_frame and owes_filler:
            slots.append(FILLER)
            owes_filler = False
        slots.append(data)
    return [*slots, FILLER] if owes_filler else slots


def write_avi(path: Path, template: Any, slots: list[bytes], *, first_empty: int = 0) -> Path:
    at = slots[0].find(VOP)
    slots = [slots[0][:at] + b"\x00\x00\x01\xb2DivX503b1393p" + slots[0][at:], *slots[1:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(template.streams.video[0])
        for number, data in enumerate(slots):
            packet = av.Packet(data)
            packet.pts = packet.dts = number + (first_empty if number else 0)
            packet.time_base, packet.duration, packet.stream = Fraction(1, 25), 1, stream
            packet.is_keyframe = data[data.find(VOP) + 4] >> 6 == 0
            container.mux(packet)
    return path


@pytest.mark.parametrize("b_frames", [1, 2, 3])
@pytest.mark.parametrize("first_empty", [0, 1, 2])
@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_packed_b_frames_come_at_an_even_pace_and_undamaged(
    tmp_path: Path, b_frames: int, first_empty: int, suffix: str
) -> None:
    plain = tmp_path / "plain.avi"
    template, packets = mpeg4_packets(plain, frames=50, options={"bf": str(b_frames), "g": "24"})
    path = write_avi(tmp_path / f"packed{suffix}", template, packed(packets), first_empty=first_empty)
    template.close()
    expected, _, _ = read(plain)
    frames, damage, _ = read(path)
    assert [plane_bytes(frame.picture) for frame in frames] == [plane_bytes(frame.picture) for frame in expected]
    assert {round(float(b - a), 3) for a, b in pairwise(times(frames))} == {0.04}
    assert times(frames)[0] == first_empty * Fraction(1, 25)
    assert damage == []


def test_frames_that_an_encoder_left_out_are_not_damage(tmp_path: Path) -> None:
    template, packets = mpeg4_packets(tmp_path / "plain.avi", frames=20, options={"bf": "0", "g": "50"})
    path = tmp_path / "dropped.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(template.streams.video[0])
        for number, data in enumerate(packets):
            packet = av.Packet(FILLER if number in {7, 8} else data)
            packet.pts = packet.dts = number
            packet.time_base, packet.duration, packet.stream = Fraction(1, 25), 1, stream
            container.mux(packet)
    template.close()
    frames, damage, _ = read(path)
    assert damage == []
    assert times(frames)[-1] == Fraction(19, 25)


CODECS = [
    ("mjpeg", "yuvj420p", {}),
    ("mpeg4", "yuv420p", {"g": "1"}),
    ("rawvideo", "yuv420p", {}),
    ("ffv1", "yuv420p", {"g": "1"}),
    ("huffyuv", "yuv422p", {}),
    ("libx264", "yuv420p", {"g": "1"}),
    ("dvvideo", "yuv420p", {}),
]


@pytest.mark.parametrize(("codec", "pixel_format", "options"), CODECS)
@pytest.mark.parametrize("audio", ["pcm_s16le", "mp2", "ac3"])
def test_zeros_within_an_avi_are_placed_by_its_index(
    tmp_path: Path, codec: str, pixel_format: str, options: dict[str, str], audio: str
) -> None:
    size = {"width": 720, "height": 576} if codec == "dvvideo" else {"width": 160, "height": 120}
    path = make_clip(
        tmp_path / "clip.avi", frames=25, codec=codec, pixel_format=pixel_format, options=options, audio=audio, **size
    )
    whole, _, all_audio = read(path)
    with av.open(str(path)) as container:
        places = [
            (packet.pos, packet.size) for packet in container.demux(video=0) if packet.size and packet.pos is not None
        ]
    data = bytearray(path.read_bytes())
    start, end = places[9][0] - 8, places[13][0] + places[13][1]
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    frames, damage, audio_packets = read(path)
    kept = [frame for frame in whole if not 9 <= frame.index <= 13]
    assert times(frames) == times(kept)
    assert [plane_bytes(frame.picture) for frame in frames] == [plane_bytes(frame.picture) for frame in kept]
    assert len(damage) == 1
    assert damage[0].start_s == pytest.approx(float(times(whole)[9]), abs=0.001)
    assert damage[0].end_s == pytest.approx(float(times(whole)[14]), abs=0.001)
    assert "5 frames could not be decoded" in damage[0].message
    assert audio_packets.items() <= all_audio.items()
