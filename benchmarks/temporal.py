"""The temporal filter of recordings on a labeled clip: `python -m benchmarks.temporal --data FOLDER`.

The clip is annotated with the filter and without, and its records are compared with the masks. The clip is used for
evaluation only: the time constants of the filter were not chosen on it.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.report import versions, write_report
from polypstream.metrics import Overlap
from polypstream.models import default_model
from polypstream.realtime.annotate.job import AnnotateConfig, AnnotationReport, annotate_video
from polypstream.realtime.annotate.records import FrameRecord, read_records
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.realtime.outlines.contours import mask_from_polyps
from polypstream.train.image_files import read_mask

MISPLACED_IOU = 0.05
"""Intersection over union below which the contours on a frame with a polyp count as misplaced."""


@dataclass(frozen=True, kw_only=True)
class TemporalRow:
    """Results of one setting."""

    temporal: bool
    frames_with_polyp: int
    found: int
    """Number of those whose contours overlap the polyp."""
    misplaced: int
    """Number of those that are marked with an IoU below `MISPLACED_IOU`."""
    dice: float
    """Mean Dice over the frames with a polyp."""
    clean_frames: int
    clean_marked: int
    interpolated: int
    """Number of contours filled in by motion."""
    tracks: int


def row_of(records: list[FrameRecord], masks: list[Path], report: AnnotationReport, *, temporal: bool) -> TemporalRow:
    """Compare the records of the clip with its masks, one PNG per frame."""
    dice, found, misplaced, clean, clean_marked = [], 0, 0, 0, 0
    for record, path in zip(records, masks, strict=True):
        truth = read_mask(path)
        if not truth.any():
            clean, clean_marked = clean + 1, clean_marked + bool(record.polyps)
            continue
        marked = mask_from_polyps(record.polyps, width=truth.shape[1], height=truth.shape[0])
        overlap = Overlap.of(truth, marked)
        dice.append(overlap.dice)
        found += bool((truth & marked).any())
        misplaced += bool(marked.any()) and overlap.iou < MISPLACED_IOU
    return TemporalRow(
        temporal=temporal,
        frames_with_polyp=len(dice),
        found=found,
        misplaced=misplaced,
        dice=float(np.mean(dice)),
        clean_frames=clean,
        clean_marked=clean_marked,
        interpolated=sum(sum(record.interpolated) for record in records),
        tracks=len(report.tracks),
    )


def measure(video: Path, masks: list[Path], *, temporal: bool) -> TemporalRow:
    """Annotate the clip with the network of the package, at the operating point that recordings use by default."""
    with TemporaryDirectory() as folder:
        segmenter = segmenter_from_onnx(default_model, backend="onnxruntime")
        point = segmenter.contract.recording_point(None)
        config = AnnotateConfig(
            threshold=point.threshold,
            min_area_share=point.min_area_share,
            min_peak=point.min_peak,
            encoding=None,
            temporal=temporal,
        )
        report = annotate_video(video, Path(folder), segmenter, config)
        return row_of(list(read_records(report.records)), masks, report, temporal=temporal)


def main() -> None:
    """Measure the clip and write `benchmarks/results/temporal-<machine>.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with video/apparent.mp4 and its masks")
    folder = parser.parse_args().data / "video"
    masks = sorted((folder / "apparent_masks").glob("*.png"))
    rows = [measure(folder / "apparent.mp4", masks, temporal=temporal) for temporal in (False, True)]
    for row in rows:
        print(asdict(row))
    print(write_report("temporal", {"versions": versions(), "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
