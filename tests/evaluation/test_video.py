"""Scores on a video whose labels and predictions are known: per frame, per polyp, and false alarms."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import polypstream as ps
from polypstream.arrays import Mask, Rgb
from polypstream.cli import app
from polypstream.errors import ConfigError
from polypstream.evaluation.evaluate import evaluate_records, evaluate_video
from polypstream.evaluation.imports.labels import Labels, Shape, box
from polypstream.evaluation.plot import plot_video
from polypstream.evaluation.true_colon import Collector, scored_boxes
from polypstream.evaluation.video import Region, VideoEvaluation, VideoScorer, regions_of
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.export import export_recording
from tests.clips import make_clip
from tests.discs import write_picture
from tests.models import contract, write_green_finder
from tests.recordings import CLIPS, annotate, two_polyps

SIZE = (60, 40)
RATE = 25


def rectangle(left: int, top: int, right: int, bottom: int) -> Mask:
    mask = np.zeros(SIZE[::-1], np.bool_)
    mask[top:bottom, left:right] = True
    return mask


LEFT, RIGHT = rectangle(5, 5, 15, 15), rectangle(40, 20, 50, 30)
NOTHING = np.zeros(SIZE[::-1], np.bool_)


def scored(frames: Sequence[tuple[Sequence[Shape], Sequence[Region]]]) -> VideoEvaluation:
    shapes = [shapes for shapes, _ in frames]
    labels = Labels(path=Path("labels"), format="test", at=lambda index: shapes[index])
    scorer = VideoScorer(labels, SIZE)
    for index, (_, predicted) in enumerate(frames):
        scorer.add(index, index / RATE, scorer.truth(index, index / RATE), predicted)
    return scorer.result(0.5)


def polyp(mask: Mask, track: str | None = "a") -> Shape:
    return Shape(label="polyp", track=track, bitmap=lambda: mask)


def found(*masks: Mask, track: str | None = None) -> list[Region]:
    return [Region(mask=mask, identity=track) for mask in masks]


def test_a_polyp_that_is_found_late_and_with_gaps() -> None:
    hits = [False, False, True, True, False, False, True, True, True, True]
    result = scored([([polyp(LEFT)], found(LEFT) if hit else []) for hit in hits])
    (score,) = result.polyps
    assert (score.frames, score.detected_frames, score.sensitivity) == (10, 6, 0.6)
    assert (score.first_frame, score.last_frame, score.first_detected_frame) == (0, 9, 2)
    assert (score.latency_frames, score.latency_s) == (2, pytest.approx(2 / RATE))
    assert score.persistence == 6 / 8
    assert score.longest_miss_frames == 2
    assert score.flicker_per_s == pytest.approx(3 / (10 / RATE))
    assert score.dice == pytest.approx(0.6)
    assert result.sensitivity == 0.6


def test_a_polyp_that_is_never_found() -> None:
    (score,) = scored([([polyp(LEFT)], [])] * 3).polyps
    assert (score.latency_s, score.persistence, score.sensitivity, score.flicker_per_s) == (None, None, 0, 0)


def test_each_polyp_is_scored_with_overlapping_predictions() -> None:
    half = rectangle(5, 5, 10, 15)
    result = scored([([polyp(LEFT, "a"), polyp(RIGHT, "b")], found(half))] * 2)
    first, second = result.polyps
    assert (first.polyp, first.sensitivity, first.dice, first.iou) == ("a", 1, pytest.approx(2 / 3), 0.5)
    assert (second.polyp, second.sensitivity, second.dice) == ("b", 0, 0)
    assert result.polyp_sensitivity == 0.5
    assert result.frames[0].iou == pytest.approx(50 / 200)


def test_predicted_tracks_of_a_polyp_are_counted() -> None:
    tracks = ["1", "1", "2"]
    result = scored([([polyp(LEFT)], found(LEFT, track=track)) for track in tracks])
    assert result.polyps[0].predicted_tracks == 2
    assert scored([([polyp(LEFT)], found(LEFT))]).polyps[0].predicted_tracks is None


def test_labels_without_identities_are_tracked() -> None:
    both = [polyp(LEFT | RIGHT, None)]
    result = scored([(both, [])] * 3 + [([polyp(LEFT, None)], [])] * 2 + [(both, [])])
    assert sorted((score.frames, score.first_frame, score.last_frame) for score in result.polyps) == [
        (4, 0, 5),
        (6, 0, 5),
    ]


def test_false_alarms_by_area_and_run() -> None:
    large, small = rectangle(0, 0, 30, 20), rectangle(0, 0, 3, 4)  # 25% and 0.5% of the frame
    alarms = [small, small, small, NOTHING, large, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING]
    result = scored([([], regions_of(mask)) for mask in alarms])
    share = {(row.min_area_share, row.min_frames): row.frame_share for row in result.alarms}
    assert (share[0, 1], share[0, 3], share[0, 5]) == (0.4, 0.3, 0)
    assert (share[0.005, 1], share[0.01, 1], share[0.05, 3]) == (0.4, 0.1, 0)
    (all_alarms,) = [row for row in result.alarms if (row.min_area_share, row.min_frames) == (0, 1)]
    assert all_alarms.alarms_per_minute == pytest.approx(2 / (10 / RATE) * 60)
    assert (result.polyps, result.dice, result.false_alarm_rate) == ((), None, 0.4)


def test_a_polyp_between_two_alarms_ends_the_run() -> None:
    frames = [([], found(LEFT)), ([polyp(LEFT)], found(LEFT)), ([], found(LEFT))]
    result = scored(frames)
    assert [row.frame_share for row in result.alarms if row.min_area_share == 0 and row.min_frames <= 3] == [1, 0]


def test_boxes_are_compared_with_boxes() -> None:
    diagonal = np.zeros_like(LEFT)
    diagonal[np.arange(5, 15), np.arange(5, 15)] = True
    result = scored([([box("polyp", 5, 5, 15, 15, track="a")], found(diagonal))])
    assert result.is_boxes
    assert result.frames[0].dice == 1


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("kind", [ExportFormat.CVAT, ExportFormat.COCO, ExportFormat.MASKS, ExportFormat.LABEL_STUDIO])
def test_records_score_1_against_their_own_export(tmp_path: Path, clip: str, kind: ExportFormat) -> None:
    recording = annotate(CLIPS[clip](tmp_path), tmp_path / "out")
    export = export_recording(recording, [kind], tmp_path / "export")[0]
    result = evaluate_records(recording.records, export)
    assert (len(result.polyp_frames), len(result.clean_frames)) == (10, 2)
    assert result.dice is not None
    assert result.dice.mean == pytest.approx(1, abs=0.03 if result.is_boxes else 0)
    assert [(each.sensitivity, each.latency_frames, each.predicted_tracks) for each in result.polyps] == [
        (1, 0, 1),
        (1, 0, 1),
    ]
    assert result.false_alarm_rate == 0


def test_records_against_corrected_labels(tmp_path: Path) -> None:
    video = CLIPS["vfr"](tmp_path)
    records = annotate(video, tmp_path / "out").records
    corrected = annotate(video, tmp_path / "corrected", lambda index: {2: two_polyps(9)[2]} if index in (3, 9) else {})
    export = export_recording(corrected, [ExportFormat.CVAT], tmp_path / "export")[0]
    arguments = ["evaluate", str(records), "--against", str(export)]
    reported = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (reported["polyp_frames"], reported["clean_frames"], reported["sensitivity"]) == (2, 10, 0.5)
    assert reported["false_alarm_rate"] == 0.8
    assert reported["polyps"][0]["latency_frames"] == 6
    shown = CliRunner().invoke(app, [*arguments, "--csv", str(tmp_path / "s.csv")], env={"COLUMNS": "160"}).output
    assert "polyps: 1 of 1 detected" in shown
    with (tmp_path / "s_polyps.csv").open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert (row["frames"], row["detected_frames"]) == ("2", "1")


def green_clip(folder: Path) -> tuple[Path, Path]:
    """Twelve frames with a green square, moving, in frames 2 to 9, and masks of the second half of them."""
    clip, masks = folder / "clip.mkv", folder / "masks"
    masks.mkdir()
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "bgr0"
        for index in range(12):
            rgb: Rgb = np.zeros((64, 64, 3), np.uint8)
            mask: NDArray[np.uint8] = np.zeros((64, 64), np.uint8)
            if 2 <= index < 10:
                rgb[20:40, 10 + index : 30 + index] = (0, 255, 0)
            if 4 <= index < 10:
                mask[20:40, 10 + index : 30 + index] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            write_picture(masks / f"{index:05d}.png", mask)
        container.mux(stream.encode(None))
    return clip, masks


def test_a_video_on_the_command_line_with_table_plot_and_protocol(tmp_path: Path) -> None:
    clip, masks = green_clip(tmp_path)
    model = write_green_finder(tmp_path / "green.onnx")
    arguments = ["evaluate", "--video", str(clip), "--against", str(masks), "--model", str(model)]
    plots = [tmp_path / "plot.png", tmp_path / "plot.svg"]
    ran = CliRunner().invoke(app, [*arguments, "--json", "--true-colon", "--plot", str(plots[0])])
    assert ran.exit_code == 0, ran.output
    reported = json.loads(ran.stdout)
    assert (reported["polyp_sensitivity"], reported["polyps"][0]["latency_frames"]) == (1, 0)
    assert reported["false_alarm_rate"] == pytest.approx(2 / 6)
    protocol = reported["true_colon"]
    assert (protocol["polyps"], protocol["target_fpr"]) == (1, 0.045)
    assert protocol["matched_fpr"] <= 0.045
    assert 0 <= protocol["afroc_area"] <= 1
    shown = CliRunner().invoke(app, [*arguments, "--plot", str(plots[1])], env={"COLUMNS": "160"}).output
    for part in ("clean frames with an alarm", "polyps: 1 of 1 detected", "33.3%"):
        assert part in shown
    assert plots[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in plots[1].read_bytes()[:1000]


def test_the_api_scores_videos_and_records_as_the_command_does(tmp_path: Path) -> None:
    clip, masks = green_clip(tmp_path)
    model = write_green_finder(tmp_path / "green.onnx", metadata=contract(min_peak=0.8).to_metadata())
    arguments = ["evaluate", "--video", str(clip), "--masks", str(masks), "--model", str(model), "--json"]
    reported = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert (reported["threshold"], reported["min_peak"]) == (0.5, 0.8)
    with ps.load_model(model, backend="onnxruntime") as loaded:
        for network in (model, loaded):
            scores = ps.evaluate_video(network, clip, masks=masks)
            assert scores.dice is not None
            assert scores.dice.mean == reported["dice"]["mean"]
            assert scores.polyps[0].latency_frames == reported["polyps"][0]["latency_frames"]
            assert (scores.threshold, scores.min_peak) == (0.5, 0.8)
            chosen = ps.evaluate_video(network, clip, against=masks, threshold=0.9)
            assert (chosen.threshold, chosen.min_peak) == (0.9, 0)
        records = ps.annotate(clip, tmp_path / "out", model=loaded, overlay="none", temporal=False).records
    by_records = ps.evaluate_records(records, masks)
    assert by_records.dice is not None
    assert by_records.dice.mean == pytest.approx(reported["dice"]["mean"], abs=0.05)
    assert by_records.polyps[0].predicted_tracks == 1
    assert (by_records.threshold, by_records.min_peak) == (0.5, 0.8)
    with pytest.raises(ConfigError, match="either masks or against"):
        ps.evaluate_video(model, clip)


def test_rotated_video_is_evaluated_upright(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mp4", width=320, height=240, rotation=90)
    recording = annotate(video, tmp_path / "out")
    export = export_recording(recording, [ExportFormat.COCO], tmp_path / "export")[0]
    shapes = []

    def predict(rgb: Rgb) -> NDArray[np.float32]:
        shapes.append(rgb.shape)
        return np.zeros(rgb.shape[:2], np.float32)

    result = evaluate_video(predict, video, export, 0.5)
    assert set(shapes) == {(320, 240, 3)}
    assert len(result.polyp_frames) == 10


def test_weak_regions_are_detections_of_their_own_unless_they_contain_a_stronger_one() -> None:
    probability = np.zeros((20, 20), np.float32)
    probability[2:8, 2:8] = 0.3
    probability[4:6, 4:6] = 0.95
    probability[12:16, 10:18] = 0.04
    boxes = sorted(scored_boxes(probability, (40, 60)))
    assert boxes == [((12, 8, 6, 4), pytest.approx(0.95)), ((30, 24, 24, 8), pytest.approx(0.04))]


def test_the_protocol_matches_the_operating_point_on_clean_frames() -> None:
    collector = Collector()
    for index in range(100):
        truth = [Region(mask=LEFT, identity="a")] if index >= 50 else []
        score = 0.8 if index >= 50 else 0.01 * (index + 1)
        collector.add(index, truth, [((5.0, 5.0, 10.0, 10.0), score)], video="clip")
    result = collector.result(fps=RATE)
    assert result.is_feasible
    assert result.matched_fpr == pytest.approx(0.04)
    assert result.matched_threshold == pytest.approx(0.49)
    assert (result.matched_tpr, result.detected_polyps, result.mean_latency_frames) == (1, 1, 0)


def test_a_plot_of_a_video_without_clean_frames(tmp_path: Path) -> None:
    plot_video(scored([([polyp(LEFT)], found(LEFT))] * 3), tmp_path / "plot.pdf", title="clip")
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")
