"""The record of a session: sightings, their frames, clips, the review and its export."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.recording import open_recording
from polypstream.realtime.live.display_frame import DisplayFrame
from polypstream.realtime.live.recording.clips import ClipBuffer
from polypstream.realtime.live.recording.review_export import ModelFacts, export_review
from polypstream.realtime.live.recording.session_record import SessionRecord
from polypstream.realtime.live.recording.sightings import MERGE_S, Kind, SightingLog, Verdict
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.video.rotation import Rotation
from tests.clips import picture
from tests.live_frames import live_frame, marker, round_polyp
from tests.realtime.live.disks import disk_of, fill
from tests.realtime.live.feeds import wait_until

STEP_S = 0.04


def log_of(*spans: tuple[int, float, float]) -> SightingLog:
    """What a log makes of tracks that are marked from one time to another."""
    log = SightingLog()
    for number in range(round(max(end for _, _, end in spans) / STEP_S) + 1):
        at_s = number * STEP_S
        log.show([marker(identity=track) for track, start, end in spans if start <= at_s < end], at_s=at_s)
    return log


def test_a_polyp_that_comes_back_as_another_track_is_one_sighting() -> None:
    (sighting,) = log_of((1, 1, 2), (2, 4, 5), (3, 9, 10)).all()
    assert sighting.tracks == (1, 2, 3)
    assert sighting.first_s == pytest.approx(1, abs=STEP_S)
    assert sighting.duration_s == pytest.approx(9, abs=2 * STEP_S)
    assert sighting.marked_s == pytest.approx(3, abs=0.2)


def test_polyps_that_are_seen_together_or_long_apart_are_different_sightings() -> None:
    assert [each.tracks for each in log_of((1, 1, 3), (2, 2, 4)).all()] == [(1,), (2,)]
    assert [each.tracks for each in log_of((1, 0, 1), (2, 1 + MERGE_S + 1, 8)).all()] == [(1,), (2,)]


@given(st.lists(st.sets(st.integers(1, 4), max_size=3), max_size=60))
def test_tracks_of_one_frame_never_share_a_sighting(frames: list[set[int]]) -> None:
    log = SightingLog()
    for number, tracks in enumerate(frames):
        log.show([marker(identity=track) for track in sorted(tracks)], at_s=number * 0.5)
        assert sum(each.last_s == number * 0.5 for each in log.all()) == len(tracks)


def record_in(folder: Path, problems: list[str] | None = None) -> SessionRecord:
    return SessionRecord(folder, MarkerStyle(), on_problem=[].append if problems is None else problems.append)


def shown(number: int = 0, *, size: tuple[int, int] = (64, 48), has_marker: bool = True) -> DisplayFrame:
    return live_frame(number, markers=(marker(),) if has_marker else (), size=size)


def test_the_record_on_the_disk_has_the_frame_the_contour_and_the_review(tmp_path: Path) -> None:
    with record_in(tmp_path) as record:
        record.show(shown())
        wait_until(lambda: record.thumbnail(1))
        record.add_missed(shown(5, has_marker=False))
        wait_until(lambda: record.thumbnail(2))
        assert record.report_false() is not None
        assert record.report_false() is None
        drawn = np.array([[2, 2], [30, 2], [30, 20], [999, 20]], np.float32)
        assert record.review(2, Verdict.ACCEPTED, drawn)
        assert not record.review(3, Verdict.ACCEPTED)
    saved = json.loads((tmp_path / "sightings.json").read_text())["sightings"]
    assert [each["kind"] for each in saved] == ["polyp", "missed"]
    assert saved[0]["is_reported_false"]
    contour = np.array(saved[0]["contour"])
    assert contour == pytest.approx(round_polyp().contour, abs=0.1)
    assert saved[1]["verdict"] == "accepted"
    assert saved[1]["is_corrected"]
    assert np.array(saved[1]["contour"]).max() == 64
    image = cv2.imread(str(tmp_path / "sightings" / "001.jpg"))
    expected = cv2.cvtColor(shown().frame.image, cv2.COLOR_RGB2BGR)
    assert np.abs(image.astype(int) - expected).mean() < 4


def test_a_rotated_frame_and_its_contour_are_stored_upright(tmp_path: Path) -> None:
    item = shown()
    quarter_turn = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    item = replace(item, frame=replace(item.frame, display_matrix=quarter_turn))
    with record_in(tmp_path) as record:
        record.show(item)
        wait_until(lambda: record.thumbnail(1))
        (sighting,) = record.sightings()
    assert sighting.size == (48, 64)
    assert sighting.contour is not None
    turned = Rotation(swaps_axes=True, swaps_left_right=True).contour(round_polyp().contour, width=64, height=48)
    other = Rotation(swaps_axes=True, swaps_up_down=True).contour(round_polyp().contour, width=64, height=48)
    center = sighting.contour.mean(axis=0)
    assert min(np.abs(center - each.mean(axis=0)).max() for each in (turned, other)) < 0.1


def test_what_a_full_disk_does_not_take_is_kept_and_written_later(tmp_path: Path) -> None:
    problems: list[str] = []
    with disk_of(tmp_path / "small", kilobytes=300) as disk:
        folder = disk / "session"
        folder.mkdir()
        ballast = fill(disk)
        with record_in(folder, problems) as record:
            record.show(shown(size=(320, 240)))
            wait_until(lambda: problems)
            assert "the disk is full" in problems[0]
            for second in range(4):
                record.tick(1e6 + 10 * second)
            assert record.thumbnail(1)
            assert record.image(1)
            ballast.unlink()
            record.review(1, Verdict.ACCEPTED)
            wait_until(lambda: problems[-1] == "")
            assert len(problems) == 2
        assert (folder / "sightings" / "001.jpg").stat().st_size > 0


def test_the_review_is_exported_with_negatives_and_without_what_is_open(tmp_path: Path) -> None:
    with record_in(tmp_path) as record:
        record.show(shown())
        wait_until(lambda: record.thumbnail(1))
        for number in (2, 3, 4):
            record.add_missed(shown(number, has_marker=False))
            wait_until(lambda number=number: record.thumbnail(number))
        assert export_review(record, [ExportFormat.COCO], tmp_path, ModelFacts()) == ([], 0)
        record.review(1, Verdict.ACCEPTED)
        record.review(2, Verdict.ACCEPTED, np.array([[5, 5], [25, 5], [15, 30]], np.float32))
        record.review(3, Verdict.DELETED)
        written, count = export_review(
            record, [ExportFormat.COCO, ExportFormat.CVAT], tmp_path, ModelFacts(name="test 1", threshold=0.7)
        )
    assert count == 3
    assert all(path.exists() for path in written)
    coco = json.loads((tmp_path / "review" / "review_coco" / "annotations" / "instances_default.json").read_text())
    assert len(coco["images"]) == 3
    assert [each["image_id"] for each in coco["annotations"]] == [1, 2]
    assert [each["attributes"]["track_id"] for each in coco["annotations"]] == [1, 2]
    images = sorted((tmp_path / "review" / "review_coco" / "images").iterdir())
    assert len(images) == 3
    stored = cv2.imread(str(tmp_path / "sightings" / "002.jpg"))
    differences = [np.abs(cv2.imread(str(image)).astype(int) - stored).mean() for image in images]
    assert differences.index(min(differences)) == 1
    assert min(differences) < 8  # of 4:2:0 chroma
    recording = open_recording(tmp_path / "review" / "review_polyps.jsonl")
    assert recording.summary.model == "test 1"
    assert {each.kind for each in record.sightings()} == {Kind.POLYP, Kind.MISSED}


def test_a_clip_keeps_what_came_before_and_what_follows(tmp_path: Path) -> None:
    source = tmp_path / "feed.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5", "bf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            frame = picture(number, width=64, height=48)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    problems: list[str] = []
    with ClipBuffer(before_s=60, after_s=0.2) as clips, av.open(str(source)) as container:
        assert not clips.keep(tmp_path / "nothing.mkv", on_stopped=problems.append)
        packets = [packet for packet in container.demux(video=0) if packet.size]
        clips.connected(container.streams.video[0])
        for packet in packets[:30]:
            clips.packet(packet)
        assert clips.keep(tmp_path / "clip.mkv", on_stopped=problems.append)
        for packet in packets[30:40]:
            clips.packet(packet)
    assert problems == []
    assert not (tmp_path / "nothing.mkv").exists()
    with av.open(str(tmp_path / "clip.mkv")) as clip, av.open(str(source)) as whole:
        kept = [frame.to_ndarray() for frame in clip.decode(video=0)]
        expected = [frame.to_ndarray() for frame in whole.decode(video=0)][:40]
    assert len(kept) == 40
    assert all(np.array_equal(*pair) for pair in zip(kept, expected, strict=True))
