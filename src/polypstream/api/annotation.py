"""Public functions that annotate recordings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from polypstream.api.models import PathLike, load_model, opened
from polypstream.errors import ConfigError

if TYPE_CHECKING:
    from polypstream.realtime.annotate.batch import BatchProgress, BatchReport
    from polypstream.realtime.annotate.job import AnnotateConfig, AnnotationProgress, AnnotationReport
    from polypstream.realtime.inference.model import Model


def annotate(
    video: PathLike,
    output: PathLike = "annotated",
    *,
    model: "Model | PathLike | None" = None,
    operating_point: str | None = None,
    threshold: float | None = None,
    temporal: bool = True,
    codec: str = "h264",
    quality: int | Literal["lossless"] = 18,
    overlay: Literal["burned", "soft", "both", "none"] = "burned",
    decoder: Literal["auto", "cpu", "cuda"] = "auto",
    report: bool = False,
    deidentify: bool = False,
    keep_audio: bool = False,
    records_only: bool = False,
    formats: Sequence[str] = (),
    proxy: bool = False,
    on_progress: "Callable[[AnnotationProgress], None] | None" = None,
) -> "AnnotationReport":
    """Write a copy of a video with every polyp outlined, and a JSON line per frame.

    Frames, times, sound and pixels outside the outlines are preserved.

    Args:
        video: Any file that FFmpeg reads, or a DICOM object with video (extra `[dicom]`).
        output: Folder for `<name>_overlay.mp4` and `<name>_polyps.jsonl`; created if necessary.
        model: A loaded model, an ONNX file, or None for the network of the package.
        operating_point: Name of one of the model's operating points, whose threshold, minimum area and minimum peak are
            used; None for the model's own threshold and minimum peak.
        threshold: Probability from which a pixel is polyp, without a minimum peak; None for the operating point's.
        temporal: Whether detections that last less than 0.2 s are dropped, gaps of up to 0.4 s filled by motion, and
            polyps followed over the edge of the image.
        codec: `h264`, `hevc`, `av1`, `vp9`, `ffv1` or any FFmpeg video encoder.
        quality: Constant rate factor, 0 (best) to 51, or `lossless`.
        overlay: `burned` encodes a copy with the contours drawn into it; `soft` copies the video without re-encoding to
            `<name>_soft.mkv` with the contours as a subtitle track; `both`, or `none`.
        decoder: What decodes the video: `cpu`; `cuda`, NVDEC, whose frames stay on the GPU until they are drawn on; or
            `auto`, NVDEC if the network runs in TensorRT and the GPU can.
        report: Write `<name>_report.html`, one page with every polyp on a timeline.
        deidentify: Black out everything except the endoscope image, pixelate intervals outside the body, and remove
            metadata, sound and the file name; the measures are listed in the summary and the notices.
        keep_audio: Keep the sound with `deidentify`.
        records_only: Equivalent to `overlay="none"`.
        formats: Additional export formats: `csv`, `coco`, `cvat`, `yolo`, `label-studio`, `voc`,
            `masks`, `webvtt`, `edl`, and for DICOM video `dicom-seg`. A table of frame numbers and times is included.
        proxy: Also write `<name>_proxy.mp4`, a copy at a constant frame rate, with the frame numbers of the records.
        on_progress: Called after each frame.

    Returns:
        Paths, counts, timing, damaged intervals and notices.

    Raises:
        SourceError: The video cannot be read.
        OutputError: The results cannot be written.
        BackendError: Inference failed.
    """
    from polypstream.realtime.annotate.job import annotate_video

    with opened(model) as network:
        overlay = "none" if records_only else overlay
        config = _annotate_config(
            network,
            operating_point,
            threshold,
            temporal=temporal,
            codec=codec,
            quality=quality,
            overlay=overlay,
            decoder=decoder,
            formats=formats,
            proxy=proxy,
            report=report,
            deidentify=deidentify,
            keep_audio=keep_audio,
        )
        return annotate_video(Path(video), Path(output), network.segmenter, config, on_progress=on_progress)


def annotate_batch(
    videos: Sequence[PathLike],
    output: PathLike = "annotated",
    *,
    model: PathLike | None = None,
    backend: str = "auto",
    url: str | None = None,
    accurate: bool = False,
    operating_point: str | None = None,
    threshold: float | None = None,
    temporal: bool = True,
    codec: str = "h264",
    quality: int | Literal["lossless"] = 18,
    overlay: Literal["burned", "soft", "both", "none"] = "burned",
    decoder: Literal["auto", "cpu", "cuda"] = "auto",
    formats: Sequence[str] = (),
    proxy: bool = False,
    report: bool = False,
    deidentify: bool = False,
    keep_audio: bool = False,
    jobs: int = 1,
    redo: bool = False,
    ray: str | None = None,
    num_gpus: float = 0.0,
    on_progress: "Callable[[BatchProgress], None] | None" = None,
) -> "BatchReport":
    """Annotate many videos as `annotate` does; failures do not stop the batch, and finished videos are skipped.

    With `jobs` above 1, call it under `if __name__ == "__main__":`, since the worker processes import the calling
    program.

    Args:
        videos: Files, folders (searched recursively; subfolders are repeated in the output) and glob patterns.
        output: Folder for the results and for `annotate_manifest.jsonl`, which lists the finished videos.
        model: An ONNX file, or None for the network of the package.
        backend: See `load_model`.
        url: See `load_model`.
        accurate: See `load_model`; `annotate` takes a model that was loaded so.
        operating_point: As for `annotate`.
        threshold: As for `annotate`.
        temporal: As for `annotate`.
        codec: As for `annotate`.
        quality: As for `annotate`.
        overlay: As for `annotate`.
        decoder: As for `annotate`.
        formats: As for `annotate`.
        proxy: As for `annotate`.
        report: Write an HTML page per video, and `index.html`.
        deidentify: As for `annotate`; all results are written directly to the output folder.
        keep_audio: As for `annotate`.
        jobs: Number of videos annotated in parallel, each in its own process.
        redo: Also annotate videos that are already finished with the same settings.
        ray: Address of a Ray cluster to annotate on; `auto` for the cluster of this machine (extra `[cluster]`).
        num_gpus: GPUs per task on the cluster; fractions are allowed.
        on_progress: Called frequently, with the estimated time left for the whole batch.

    Returns:
        The annotated, skipped and failed videos.

    Raises:
        ConfigError: Results of two videos would have the same name, or an option is out of range.
        ModelError: The model cannot be loaded.
        BackendError: The backend does not work here, or there is no Ray cluster at the address.
        MissingExtraError: Ray is not installed.
    """
    from polypstream.realtime.annotate.batch import run_batch, runner_here
    from polypstream.realtime.annotate.cluster import ClusterConfig, runner_on_cluster
    from polypstream.realtime.annotate.inputs import find_videos
    from polypstream.realtime.annotate.workers import ModelFile, runner_in_processes

    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}; it must be at least 1")
    asked = ModelFile(path=None if model is None else Path(model), backend=backend, accurate=accurate, url=url)
    found, unmatched = find_videos(videos, output=Path(output))
    with load_model(model, backend=backend, accurate=accurate, url=url) as network:
        config = _annotate_config(
            network,
            operating_point,
            threshold,
            temporal=temporal,
            codec=codec,
            quality=quality,
            overlay=overlay,
            decoder=decoder,
            formats=formats,
            proxy=proxy,
            report=report,
            deidentify=deidentify,
            keep_audio=keep_audio,
        )
        file = replace(asked, backend=network.backend)
        if ray is not None:
            cluster = ClusterConfig(address=ray, num_gpus=num_gpus)
            runner = runner_on_cluster(file, config, cluster)
        elif jobs > 1:
            runner = runner_in_processes(file, config, jobs=jobs)
        else:
            runner = runner_here(network.segmenter, config)
        return run_batch(
            found,
            Path(output),
            runner,
            config,
            model=asked.identity(network.segmenter),
            unmatched=unmatched,
            redo=redo,
            on_progress=on_progress,
        )


def _annotate_config(
    network: "Model",
    operating_point: str | None,
    threshold: float | None,
    *,
    temporal: bool,
    codec: str,
    quality: int | Literal["lossless"],
    overlay: str,
    decoder: Literal["auto", "cpu", "cuda"],
    formats: Sequence[str],
    proxy: bool,
    report: bool,
    deidentify: bool,
    keep_audio: bool,
) -> "AnnotateConfig":
    from polypstream.realtime.annotate.formats.export import formats_from
    from polypstream.realtime.annotate.job import AnnotateConfig
    from polypstream.realtime.video.writer import Encoding

    if overlay not in {"burned", "soft", "both", "none"}:
        raise ConfigError(f"overlay is {overlay!r}; choose 'burned', 'soft', 'both' or 'none'")
    point = network.contract.recording_point(operating_point).with_threshold(threshold)
    return AnnotateConfig(
        threshold=point.threshold,
        min_area_share=point.min_area_share,
        min_peak=point.min_peak,
        temporal=temporal,
        encoding=Encoding(codec=codec, quality=quality) if overlay in {"burned", "both"} else None,
        soft_overlay=overlay in {"soft", "both"},
        decoder=decoder,
        formats=formats_from(formats),
        proxy=proxy,
        report=report,
        deidentify=deidentify,
        keep_audio=keep_audio,
    )
