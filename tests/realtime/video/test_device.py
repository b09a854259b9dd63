"""Frames that stay in GPU memory: the same results as on the CPU, and what is copied when."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from polypstream.errors import BackendError, ConfigError, MissingExtraError, ProviderMissingError
from polypstream.realtime import native
from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.video import device
from polypstream.realtime.video.device import FrameKernel, hardware_for
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.writer import Encoding
from tests.models import write_green_finder

ROOT = Path(__file__).parents[3]
FRAMES, WIDTH, HEIGHT = 12, 192, 128


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A green disc that moves over gray texture, with B frames."""
    return written(tmp_path / "clip.mp4", "yuv420p")


def written(path: Path, pixel_format: str, *, rotation: int = 0) -> Path:
    across, down = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    texture = np.random.default_rng(0).integers(60, 180, (HEIGHT // 4, WIDTH // 4, 1), np.uint8)
    texture = texture.repeat(4, axis=0).repeat(4, axis=1).repeat(3, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(FRAMES):
            rgb = texture.copy()
            rgb[(across - 60 - 3 * index) ** 2 + (down - 60) ** 2 < 25**2] = (40, 200, 60)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.skipif(not native.is_available(), reason="needs the native module")
def test_frames_on_the_gpu_give_the_same_results_and_stay_there(clip: Path, tmp_path: Path, stub_driver: Path) -> None:
    pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install 'polypstream[rtx]'")
    model = write_green_finder(tmp_path / "tiny.onnx")
    deep = written(tmp_path / "deep.mp4", "yuv420p10le", rotation=90)
    done = subprocess.run(
        [sys.executable, "-m", "tests.realtime.video.on_device", *map(str, (clip, deep, model, tmp_path))],
        env={**os.environ, "LD_LIBRARY_PATH": str(stub_driver)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    asked = {part.split("\n")[0]: part.split("\n")[1:] for part in done.stdout.split("-- ")[1:]}
    assert asked["cpu"] == ["notices []", ""], "the driver is not asked for anything"
    assert any("the GPU does not decode this video (h264, yuv420p, 192x128)" in line for line in asked["software"])
    assert "accelerated True SLICE" in asked["software"], "FFmpeg shares the context that others have activated"
    assert "fallback False AUTO" in asked["software"], "with all cores"
    assert "notices []" in asked["records"]
    frame = ["record 1", "wait 21", f"copy {64 * 64 * 3}", "wait"]
    assert asked["records"][3:7] == frame, "after the decoder, which works on the default stream"
    downloads = [line for line in asked["records"] if line.startswith("download")]
    assert not downloads, "whole frames stay on the GPU"
    assert {line for line in asked["records"] if line.startswith("copy")} == {frame[2]}, "only the network's input"
    assert sum(line.startswith("download") for line in asked["burned"]) == 2 * FRAMES, "two planes of each frame"
    for name in ("records", "burned"):
        freed = [line for line in asked[name] if line in ("free", "unpin", "destroy stream")]
        assert freed == ["unpin", "free", "destroy stream"]
    expected = (tmp_path / "cpu" / "clip_polyps.jsonl").read_bytes()
    assert expected.count(b'"contour"') >= FRAMES - 1
    for name in ("software", "records", "burned"):
        assert (tmp_path / name / "clip_polyps.jsonl").read_bytes() == expected, name
    drawn = [images(tmp_path / name / "clip_overlay.mp4") for name in ("cpu", "burned", "kept")]
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])
    deep_images = [images(tmp_path / name / "deep_overlay.mp4") for name in ("burned deep", "kept deep")]
    assert deep_images[0][0].dtype == np.uint16
    assert np.array_equal(*deep_images)
    for name, pixel_format, sample_bytes in (("kept", "nv12", 1), ("kept deep", "p010le", 2)):
        (opened,) = (line for line in asked[name] if line.startswith("nvenc"))
        assert opened.startswith(f"nvenc cuda {pixel_format}"), "NVENC is told that frames are in GPU memory"
        assert "Invalid" not in opened, "it accepts that, and only then looks for its library"
        whole = {f"{WIDTH * sample_bytes}x{rows}" for rows in (HEIGHT, HEIGHT // 2)}
        uploads = [line.split()[1] for line in asked[name] if line.startswith("upload")]
        assert len(uploads) >= 2 * (FRAMES - 1), "two planes of each frame with a polyp"
        assert not whole.intersection(uploads), "only the rectangle around the polyp"


def images(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


@pytest.mark.gpu
def test_nvdec_gives_the_same_records(clip: Path, tmp_path: Path) -> None:
    model = write_green_finder(tmp_path / "tiny.onnx")
    found = {}
    for decoder in ("cpu", "cuda"):
        try:
            hardware, _ = hardware_for(decoder, backend="onnxruntime")  # type: ignore[arg-type]
        except (BackendError, MissingExtraError) as error:
            pytest.skip(str(error))
        config = AnnotateConfig(encoding=Encoding(quality="lossless"), decoder=decoder)  # type: ignore[arg-type]
        with VideoReader(clip, hardware=hardware) as reader:
            assert {device.is_on_device(frame.picture) for frame in reader.frames()} == {decoder == "cuda"}
            assert not reader.notices
        with OnnxRuntimeSegmenter(model) as segmenter:
            report = annotate_video(clip, tmp_path / decoder, segmenter, config)
        assert report.frames == FRAMES
        assert report.overlay is not None
        found[decoder] = report.frames_with_polyp, np.stack(images(report.overlay)).astype(int)
    assert found["cpu"][0] == found["cuda"][0]
    assert np.abs(found["cpu"][1] - found["cuda"][1]).mean() < 0.1, "a contour may move by a fraction of a pixel"


@pytest.mark.gpu
@pytest.mark.parametrize("decoder", ["cpu", "cuda"])
@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc"])
def test_nvenc_writes_what_the_cpu_writes(clip: Path, tmp_path: Path, codec: str, decoder: Any) -> None:
    try:
        encoding = Encoding(codec=codec, quality="lossless")
        hardware_for(decoder, backend="onnxruntime")
    except (BackendError, ConfigError, MissingExtraError) as error:
        pytest.skip(str(error))
    model, found = write_green_finder(tmp_path / "tiny.onnx"), {}
    for name, each in {"nvenc": encoding, "cpu": Encoding(quality="lossless")}.items():
        with OnnxRuntimeSegmenter(model) as segmenter:
            report = annotate_video(
                clip, tmp_path / name, segmenter, AnnotateConfig(encoding=each, decoder=decoder, temporal=False)
            )
        assert report.overlay is not None
        found[name] = images(report.overlay)
    assert len(found["nvenc"]) == FRAMES
    assert np.array_equal(found["nvenc"], found["cpu"]), "lossless, so the markers are where the CPU draws them"


def test_the_cpu_decodes_unless_the_network_runs_in_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ProviderMissingError("there is no NVIDIA driver on this machine")

    monkeypatch.setattr(device, "kernels", absent)
    assert hardware_for("auto", backend="onnxruntime") == (None, [])
    assert hardware_for("cpu", backend="tensorrt") == (None, [])
    hardware, (notice,) = hardware_for("auto", backend="tensorrt")
    assert hardware is None
    assert notice == "the video is decoded on the CPU: there is no NVIDIA driver on this machine"
    with pytest.raises(ProviderMissingError):
        hardware_for("cuda", backend="onnxruntime")


@pytest.mark.parametrize(("is_built", "has_kernels"), [(False, True), (True, False)])
def test_without_kernels_the_missing_compiler_is_named(
    monkeypatch: pytest.MonkeyPatch, is_built: bool, has_kernels: bool
) -> None:
    monkeypatch.setattr(native, "is_available", lambda: is_built)
    monkeypatch.setattr(native, "has_kernels", lambda: has_kernels)
    with pytest.raises(BackendError, match="install a CUDA compiler"):
        hardware_for("cuda", backend="tensorrt")


def test_the_kernel_takes_neither_interlaced_frames_nor_other_formats() -> None:
    kind: Any = {"sw_format": av.VideoFormat("nv12"), "colorspace": 1, "height": HEIGHT, "interlaced_frame": True}
    for changes in ({}, {"interlaced_frame": False, "sw_format": av.VideoFormat("yuv444p")}):
        frame: Any = SimpleNamespace(**{**kind, **changes})
        assert not FrameKernel().enqueue(frame, (64, 64), out=1, stream=1)


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="the decoder is 'nvdec'; choose 'auto', 'cpu' or 'cuda'"):
        AnnotateConfig(decoder="nvdec")  # type: ignore[arg-type]
