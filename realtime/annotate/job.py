"""The main job: reads a video, writes a record of each frame and a copy of the video with every polyp outlined.

Modules that only some jobs need are imported on use: together, their import takes a tenth of a second.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import get_args

import cv2

from polypstream.contract import MIN_AREA_SHARE
from polypstream.errors import ConfigError
from polypstream.realtime.annotate.detections import DetectionLog, detection_key, log_path
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.outputs import check_name, outputs_of, proxy_path, report_path, soft_overlay_path
from polypstream.realtime.annotate.pipeline import Pipeline, Recalled, Segmented
from polypstream.realtime.annotate.records import RecordWriter
from polypstream.realtime.annotate.summary import Summary, VideoFacts, is_constant_rate, summary_path, write_summary
from polypstream.realtime.annotate.temporal import FilteredFrame, TemporalFilter
from polypstream.realtime.annotate.tracks import FrameScene, PolypTrack, TrackStatistics
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.realtime.live.visibility import Visibility
from polypstream.realtime.outlines.contours import Place, Polyp, polyps_from_probability
from polypstream.realtime.outlines.drawing import MarkerStyle, draw_markers
from polypstream.realtime.statistics import Percentiles, Rate, Samples
from polypstream.realtime.video.container import VideoInfo
from polypstream.realtime.video.device import VideoDecoder, hardware_for
from polypstream.realtime.video.dicom import is_dicom
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import Damage, StreamPacket, VideoReader
from polypstream.realtime.video.writer import Encoding, NullWriter, VideoWriter

UNCLEAR_SHARE = 0.1
"""If more frames than this share have a detection, but cannot be assessed, there is a notice."""


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Settings of an annotation."""

    threshold: float = 0.5
    """Probability from which a pixel is polyp."""
    min_area_share: float = MIN_AREA_SHARE
    """Minimum area of a region, as a fraction of the frame."""
    min_peak: float = 0.0
    """Probability that a region must reach somewhere."""
    temporal: bool = True
    """Whether detections without support in neighboring frames are dropped, and short gaps filled; see `temporal`."""
    encoding: Encoding | None = field(default_factory=Encoding)
    """Encoding of the video with burned-in contours; None to not write it."""
    soft_overlay: bool = False
    """Whether the video is also copied with the contours as a subtitle track."""
    decoder: VideoDecoder = "auto"
    """What decodes the video; on the GPU, frames stay there for NVENC, and otherwise until they are drawn on."""
    formats: tuple[ExportFormat, ...] = ()
    """Formats to which the records are exported, besides the records themselves."""
    proxy: bool = False
    """Whether a constant-rate copy is written whose frames have the numbers of the records."""
    report: bool = False
    """Whether an HTML report is written; the visibility of each frame is then measured and recorded."""
    deidentify: bool = False
    """Whether identifying parts of image, metadata and file name are removed from the results; see `deidentify`."""
    keep_audio: bool = False
    """Whether a de-identified overlay keeps the sound."""
    style: MarkerStyle = field(default_factory=MarkerStyle)

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"the threshold is {self.threshold}; it must be between 0 and 1")
        if not 0 <= self.min_peak < 1:
            raise ConfigError(f"min_peak is {self.min_peak}; it must be from 0 to below 1")
        if self.decoder not in get_args(VideoDecoder):
            raise ConfigError(f"the decoder is {self.decoder!r}; choose 'auto', 'cpu' or 'cuda'")
        if self.deidentify and self.soft_overlay:
            raise ConfigError("a soft overlay copies the source, which cannot be de-identified; use the burned overlay")
        if self.deidentify and self.proxy:
            raise ConfigError("a proxy shows complete frames, which cannot be de-identified; use the burned overlay")
        if self.deidentify and ExportFormat.DICOM_SEG in self.formats:
            raise ConfigError("a DICOM Segmentation states the patient and the study; omit dicom-seg or deidentify")
        if self.keep_audio and not self.deidentify:
            raise ConfigError("sound is only removed by de-identification; omit keep_audio")

    @property
    def measures_visibility(self) -> bool:
        """Whether the visibility of each frame is measured and recorded."""
        return self.report or self.deidentify


@dataclass(frozen=True, kw_only=True)
class AnnotationReport:
    """Result of annotating one video."""

    video: Path
    overlay: Path | None
    """The video with burned-in contours; None if it was not written."""
    soft_overlay: Path | None
    """The copy with contours as a subtitle track; None if it was not written."""
    report: Path | None
    """The HTML report; None if it was not written."""
    records: Path
    exports: tuple[Path, ...]
    """Files and folders of the requested formats, and the frame table that accompanies them."""
    proxy: Path | None
    """The constant-rate copy; None if it was not written."""
    frames: int
    frames_with_polyp: int
    polyps: int
    """Sum of the number of polyps over all frames."""
    tracks: tuple[PolypTrack, ...]
    """One track per polyp of the recording."""
    seconds: float
    """Wall time of the whole job, including opening and closing."""
    fps: float | None
    """Frames per second between the first and the last frame written."""
    latency: Percentiles | None
    """Time from decoding a frame to handing over its record and its annotated copy."""
    start_offset_s: float
    """Start of the source's clock in seconds; all times are relative to it."""
    damage: tuple[Damage, ...]
    """Intervals of the source that could not be decoded."""
    notices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AnnotationProgress:
    """Progress within one video."""

    frames: int
    frames_expected: int | None
    pts_s: float
    duration_s: float | None
    fps: float | None


def named_for(video: Path, config: AnnotateConfig) -> Path:
    """Path after which the results are named: that of the video, or a hash of its content for `deidentify`."""
    if not config.deidentify:
        return video
    from polypstream.realtime.annotate.deidentify import case_name

    return case_name(video)


class _OpenCvThreads:
    """Limits OpenCV to one thread while any job runs, since the stages of the pipeline use all cores already."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._jobs = 0
        self._before = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Limit OpenCV to one thread; the last job to end restores the setting found by the first."""
        with self._lock:
            if not self._jobs:
                self._before = cv2.getNumThreads()
                cv2.setNumThreads(1)
            self._jobs += 1
        try:
            yield
        finally:
            with self._lock:
                self._jobs -= 1
                if not self._jobs:
                    cv2.setNumThreads(self._before)


_opencv_threads = _OpenCvThreads()


@dataclass(frozen=True, kw_only=True)
class _Viewed:
    """A frame and its visibility."""

    frame: Frame
    visibility: Visibility


def polyps_found(segmented: Segmented, info: VideoInfo, config: AnnotateConfig) -> list[Polyp]:
    """The polyps of one frame, in source pixels, before tracking."""
    rows, columns = segmented.image.rgb.shape[:2]
    return polyps_from_probability(
        segmented.part,
        threshold=config.threshold,
        width=info.width,
        height=info.height,
        min_area_share=config.min_area_share,
        min_peak=config.min_peak,
        place=Place(crop=segmented.image.shown, rows=rows, columns=columns),
    )


def _filtered(
    pipeline: Iterable[Segmented | Recalled | StreamPacket],
    info: VideoInfo,
    config: AnnotateConfig,
    log: DetectionLog | None,
    detected: Counter[Visibility],
) -> Iterator[FilteredFrame[_Viewed] | StreamPacket]:
    """The polyps of every frame, tracked and filtered over time; packets of other streams keep their place among them.

    `detected` counts the frames in which the network finds a polyp, by visibility.
    """
    temporal = TemporalFilter[_Viewed](is_on=config.temporal)
    packets = deque[tuple[int, StreamPacket]]()  # with the number of frames before each
    pushed = released = 0

    def in_order(frames: Iterable[FilteredFrame[_Viewed]]) -> Iterator[FilteredFrame[_Viewed] | StreamPacket]:
        nonlocal released
        for frame in frames:
            yield frame
            released += 1
            while packets and packets[0][0] <= released:
                yield packets.popleft()[1]

    for item in pipeline:
        if isinstance(item, StreamPacket):
            if pushed == released:
                yield item
            else:
                packets.append((pushed, item))
            continue
        pushed += 1
        polyps = list(item.polyps) if isinstance(item, Recalled) else polyps_found(item, info, config)
        if log is not None and isinstance(item, Segmented):
            log.add(item.frame.pts, item.image, polyps)
        is_measured = config.measures_visibility or (config.temporal and bool(polyps))
        scene = FrameScene(item.image.rgb, item.image.content)
        visibility = scene.visibility if is_measured else Visibility.CLEAR
        detected[visibility] += bool(polyps)
        frames = temporal.push(
            _Viewed(frame=item.frame, visibility=visibility if config.measures_visibility else Visibility.CLEAR),
            index=item.frame.index,
            pts_s=item.frame.pts_s,
            polyps=polyps,
            size=(info.width, info.height),
            scene=scene,
            is_evidence=visibility is Visibility.CLEAR,
        )
        yield from in_order(frames)
    yield from in_order(temporal.flush())


def _unconfirmed(detected: Counter[Visibility], frames: int) -> tuple[str, ...]:
    """A notice if most detections, in many frames, are in frames that confirm nothing in the temporal filter."""
    unclear = Counter({each: count for each, count in detected.items() if each is not Visibility.CLEAR})
    if unclear.total() <= max(detected[Visibility.CLEAR], UNCLEAR_SHARE * frames):
        return ()
    (most, _), *_ = unclear.most_common(1)
    return (
        f"{unclear.total()} of {detected.total()} frames with a detection cannot be assessed (mostly {most.value}), so "
        "they confirm no polyp by themselves; to keep all detections, turn the temporal filter off (--no-temporal)",
    )


def annotate_video(
    video: Path,
    folder: Path,
    segmenter: Segmenter,
    config: AnnotateConfig,
    *,
    resume_key: str | None = None,
    on_progress: Callable[[AnnotationProgress], None] | None = None,
) -> AnnotationReport:
    """Annotate one video: writes `<stem>_polyps.jsonl` and, depending on `config`, `<stem>_overlay.mp4`.

    `<stem>_soft.mkv` is copied from the source at the end, and the records are exported, if wanted.

    Both have `.partial` in their names until they are complete. If the job ends early, be it by an error, a full disk
    or the end of the process, the unfinished files remain under those names and are playable. Each playable frame has
    its line.

    Args:
        video: Video file.
        folder: Output folder; created if necessary. The overlay is an .mkv or .mov file if MP4 cannot contain one of
            its streams.
        segmenter: The network; closed at the end.
        config: Threshold, encoding and style.
        resume_key: Identifies the video's content, the model and `config`. With it, a job resumes
            an interrupted one with the same key and backend without repeating inference; results are identical.
        on_progress: Called after each frame, in this thread.

    Returns:
        Counts, paths, rates and notices.

    Raises:
        SourceError: If the video cannot be read.
        OutputError: If a result cannot be written.
        ConfigError: If the encoder does not support the frames, or a DICOM Segmentation of another file is requested.
        MissingExtraError: If the video is a DICOM object and pydicom is not installed.
        BackendError: If the network fails.
    """
    began = monotonic()
    named = named_for(video, config)
    check_name(named, folder)
    if ExportFormat.DICOM_SEG in config.formats:
        from polypstream.realtime.annotate.formats.dicom_seg import check_dicom_source

        check_dicom_source(video)
    overlay, records = outputs_of(named, folder)
    encoding = None if config.deidentify else config.encoding  # otherwise it is written in a second pass
    rate, latency = Rate(), Samples()
    reported = len(segmenter.notices)  # later ones report a change of the backend
    marked = polyp_count = 0
    statistics, pts = TrackStatistics(), list[int]()
    detected = Counter[Visibility]()
    hardware, decoder_notices = hardware_for(config.decoder, backend=segmenter.backend)
    with (
        _opencv_threads.one(),
        DetectionLog(log_path(records), detection_key(resume_key, segmenter)) if resume_key else nullcontext() as log,
        VideoReader(video, hardware=hardware) as source,
        RecordWriter(records, start_offset_s=0.0 if config.deidentify else source.info.start_offset_s) as record_writer,
        VideoWriter(overlay, source=source, encoding=encoding) if encoding else NullWriter() as video_writer,
        Pipeline(source, *segmenter.in_parallel(), recall=log.find if log else None) as pipeline,
    ):
        info = source.info
        for item in _filtered(pipeline, info, config, log, detected):
            if isinstance(item, StreamPacket):
                video_writer.write(item)
                continue
            frame, polyps = item.item.frame, item.polyps
            record_writer.write(
                frame, polyps, item.tracks, interpolated=item.interpolated, visibility=item.item.visibility
            )
            statistics.add(index=item.index, pts_s=item.pts_s, polyps=polyps, ids=item.tracks)
            pts.append(frame.pts)
            if encoding is not None:
                picture = video_writer.prepared(frame)
                draw_markers(picture, polyps, config.style)
                video_writer.write_picture(picture)
            latency.add(monotonic() - frame.captured_at)
            rate.tick()
            marked, polyp_count = marked + bool(polyps), polyp_count + len(polyps)
            if on_progress is not None:
                on_progress(
                    AnnotationProgress(
                        frames=rate.count,
                        frames_expected=info.frame_count,
                        pts_s=item.pts_s,
                        duration_s=info.duration_s,
                        fps=rate.fps,
                    )
                )
    of_detection = (*segmenter.notices[reported:], *(_unconfirmed(detected, rate.count) if config.temporal else ()))
    notices = (*decoder_notices, *(video_writer.notices if encoding else source.notices), *of_detection)
    written = video_writer.path if encoding else None
    concealment = account = None
    if config.deidentify:
        from polypstream.realtime.annotate.deidentify import (
            account_of,
            concealment_of,
            without_clock,
            write_deidentified,
        )

        concealment = concealment_of(video, records)
        account = account_of(concealment, named.stem, keep_audio=config.keep_audio)
        if config.encoding is not None:
            written, notices = write_deidentified(
                video,
                records,
                overlay,
                concealment=concealment,
                encoding=config.encoding,
                style=config.style,
                keep_audio=config.keep_audio,
            )
            notices += of_detection
        notices = without_clock(notices)
    soft_overlay = soft_overlay_path(video, folder) if config.soft_overlay else None
    if soft_overlay is not None:
        from polypstream.realtime.annotate.soft_overlay import write_soft_overlay

        notices += tuple(write_soft_overlay(video, records, soft_overlay, config.style))
    summary = Summary(
        video=replace(VideoFacts.of(info, frames=rate.count, is_constant_rate=is_constant_rate(pts)), name=named.name),
        model=f"{segmenter.contract.name} {segmenter.contract.version} ({segmenter.contract.precision})",
        software=version("polypstream"),
        backend=segmenter.backend,
        threshold=config.threshold,
        min_peak=config.min_peak,
        tracks=statistics.tracks,
        frames_with_polyp=marked,
        notices=notices,
        damage=tuple(source.damage),
        is_visibility_measured=config.measures_visibility,
        deidentification=account,
    )
    write_summary(summary_path(records), summary)
    if account is not None:
        notices += (*account.done, *(f"not guaranteed: {limit}" for limit in account.limits))
    exports, proxy, warnings = _export(video, records, config)
    notices += warnings
    report = report_path(named, folder) if config.report else None
    if report is not None:
        from polypstream.realtime.annotate.report import write_report

        playable = proxy if is_dicom(video) else video  # browsers play no DICOM
        media = [path for path in (written, None if config.deidentify else playable) if path is not None]
        hide = None if concealment is None else concealment.hide_image
        write_report(report, video=video, records=records, summary=summary_path(records), media=media, hide=hide)
    if log is not None:
        log.remove()
    return AnnotationReport(
        video=video,
        overlay=written,
        soft_overlay=soft_overlay,
        report=report,
        records=records,
        exports=exports,
        proxy=proxy,
        frames=rate.count,
        frames_with_polyp=marked,
        polyps=polyp_count,
        tracks=summary.tracks,
        seconds=monotonic() - began,
        fps=rate.fps,
        latency=latency.percentiles(),
        start_offset_s=0.0 if config.deidentify else info.start_offset_s,
        damage=tuple(source.damage),
        notices=notices,
    )


def _export(
    video: Path, records: Path, config: AnnotateConfig
) -> tuple[tuple[Path, ...], Path | None, tuple[str, ...]]:
    """Write the requested formats and the proxy; returns paths, and warnings about the frame rate."""
    formats = tuple(each for each in config.formats if each is not ExportFormat.JSONL)
    if not formats and not config.proxy:
        return (), None, ()
    from polypstream.realtime.annotate.formats.export import export_recording
    from polypstream.realtime.annotate.formats.recording import open_recording

    recording = open_recording(records, video=video)
    proxy = None
    if config.proxy:
        from polypstream.realtime.annotate.proxy import proxy_rate, write_proxy

        proxy = proxy_path(video, records.parent)
        rate = proxy_rate(recording.rate, is_constant_rate=recording.is_constant_rate)
        write_proxy(video, proxy, rate=rate)
        recording = replace(recording, proxy=(proxy.name, rate))
    exports = tuple(export_recording(recording, formats, records.parent))
    return exports, proxy, () if proxy else recording.warnings
