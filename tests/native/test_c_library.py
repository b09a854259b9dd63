"""A C program links against libpolypstream and finds the contours that Python finds."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from polypstream.arrays import Rgb, Size
from polypstream.models import default_model
from polypstream.realtime import native
from polypstream.realtime.inference.model_input import ModelInputs, segment_input
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.outlines.content_area import within_content
from polypstream.realtime.outlines.contours import Polyp, polyps_from_probability
from tests.models import contract, write_green_finder
from tests.native.build import ROOT, build, cmake, need, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not native.is_available(), reason="the native module is not built here"),
]
EXAMPLE = ROOT / "native" / "example"


@dataclass(frozen=True)
class Found:
    frame: int
    score: float
    area: float
    contour: NDArray[np.float32]


def onnxruntime_library() -> Path:
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1*")
    return library


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("prefix")
    folder = tmp_path_factory.mktemp("library")
    build(folder, POLYPSTREAM_CUDA="OFF", CMAKE_INSTALL_PREFIX=prefix, CMAKE_INSTALL_LIBDIR="lib")
    run(cmake(), "--install", folder)
    return prefix


@pytest.fixture(scope="module")
def program(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built as a program of someone else's would be: with pkg-config."""
    need("pkg-config")
    program = tmp_path_factory.mktemp("program") / "segment"
    environment = {**os.environ, "PKG_CONFIG_PATH": str(installed / "lib" / "pkgconfig")}
    flags = run("pkg-config", "--cflags", "--libs", "polypstream", environment=environment).split()
    warnings = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    run("cc", *warnings, EXAMPLE / "segment.c", *flags, f"-Wl,-rpath,{installed / 'lib'}", "-o", program)
    return program


def found_by_c(
    program: Path, model: Path, pixel_format: str, frames: NDArray[np.uint8], size: Size, folder: Path
) -> tuple[list[Found], NDArray[np.uint8]]:
    """Polyps and the frames that were drawn on."""
    frames.tofile(folder / "in.raw")
    command = (program, model, onnxruntime_library(), pixel_format, *size, folder / "in.raw", folder / "out.raw")
    found = []
    for line in run(*command).splitlines():
        number, score, area, *points = line.split()
        contour = np.array([point.split(",") for point in points], np.float32)
        found.append(Found(int(number), float(score), float(area), contour))
    return found, np.fromfile(folder / "out.raw", np.uint8).reshape(frames.shape)


def found_by_python(model: Path, frames: int, scale: Callable[[int, Size], Rgb], size: Size) -> list[list[Polyp]]:
    width, height = size
    found = []
    with OnnxRuntimeSegmenter(model) as segmenter:
        inputs = ModelInputs(height=segmenter.height, width=segmenter.width, crop=segmenter.contract.crop)
        for number in range(frames):
            made = inputs.of(partial(scale, number))
            probability = within_content(segment_input(segmenter, made), made.content)
            point = segmenter.contract.recording_point()
            found.append(
                polyps_from_probability(
                    probability, threshold=point.threshold, min_peak=point.min_peak, width=width, height=height
                )
            )
    return found


def apart_px(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The largest distance of a vertex of either contour from the other contour."""
    return max(
        abs(cv2.pointPolygonTest(other.reshape(-1, 1, 2), (float(x), float(y)), True))
        for some, other in ((a, b), (b, a))
        for x, y in some
    )


def compare(by_c: list[Found], by_python: list[list[Polyp]]) -> None:
    flat = [(number, polyp) for number, polyps in enumerate(by_python) for polyp in polyps]
    assert [each.frame for each in by_c] == [number for number, _ in flat]
    for ours, (_, theirs) in zip(by_c, flat, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        assert ours.area == pytest.approx(theirs.area, rel=2e-3)
        assert apart_px(ours.contour, theirs.contour) < 0.2  # vertices are thinned to 0.05 pixels in two ways


def green_discs(width: int, height: int) -> NDArray[np.uint8]:
    """BGR frames of red tissue within a dark surround, with green discs that move."""
    frames = np.zeros((3, height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        cv2.circle(frame, (width // 2, height // 2), height // 2 - 10, (60, 60, 160), -1)
        cv2.circle(frame, (width // 2 - 40 + 20 * number, height // 2), 42, (60, 200, 60), -1)
        cv2.circle(frame, (width // 2, height // 2 + 90), 18, (60, 120, 60), -1)  # a probability of 0.98
    return frames


@pytest.mark.parametrize(
    ("pixel_format", "min_peak", "expected"), [("bgr", 0.0, 6), ("nv12", 0.0, 6), ("bgr", 0.99, 3)]
)
def test_a_c_program_finds_and_draws_what_python_does(
    tmp_path: Path, program: Path, pixel_format: str, min_peak: float, expected: int
) -> None:
    width, height = size = (480, 360)
    model = write_green_finder(tmp_path / "model.onnx", metadata=contract(min_peak=min_peak).to_metadata())
    frames = green_discs(width, height)

    def scale(number: int, out_size: Size) -> Rgb:
        if pixel_format == "bgr":
            planes, name = [frames[number]], "BGR"
        else:
            planes, name = [frames[number][:height], frames[number][height:]], "NV12"
        (rgb,) = native.preprocess([planes], pixel_format=name, size=size, out_size=out_size)  # type: ignore[arg-type]
        return rgb

    if pixel_format == "nv12":
        pictures = [av.VideoFrame.from_ndarray(frame, format="bgr24") for frame in frames]
        made = [picture.reformat(format="nv12", dst_colorspace="ITU709").to_ndarray() for picture in pictures]
        frames = np.stack(made).astype(np.uint8)
    by_c, drawn = found_by_c(program, model, pixel_format, frames, size, tmp_path)
    assert len(by_c) == expected
    compare(by_c, found_by_python(model, len(frames), scale, size))
    changed = (drawn != frames).reshape(len(frames), -1).mean(axis=1)
    assert (changed > 0.002).all()
    assert (changed < 0.05).all()


@pytest.mark.data
def test_on_the_real_clip_the_contours_are_the_same(tmp_path: Path, program: Path) -> None:
    folder = os.environ.get("POLYPSTREAM_TEST_DATA")
    if not folder:
        pytest.skip("POLYPSTREAM_TEST_DATA names no folder")
    frames = []
    with av.open(str(Path(folder) / "video" / "apparent.mp4")) as container:
        for number, picture in enumerate(container.decode(video=0)):
            if number % 12 == 0:
                frames.append(picture.to_ndarray(format="nv12"))
            if len(frames) == 16:
                break
    raw = np.stack(frames).astype(np.uint8)
    height, width = raw.shape[1] * 2 // 3, raw.shape[2]

    def scale(number: int, out_size: Size) -> Rgb:
        planes = [raw[number][:height], raw[number][height:]]
        (rgb,) = native.preprocess([planes], pixel_format="NV12", size=(width, height), out_size=out_size)
        return rgb

    model = default_model()
    by_c, _ = found_by_c(program, model, "nv12", raw, (width, height), tmp_path)
    assert by_c
    compare(by_c, found_by_python(model, len(raw), scale, (width, height)))


def test_cmake_finds_the_library(tmp_path: Path, installed: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "example")
    run(cmake(), "-S", tmp_path / "example", "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    run(cmake(), "--build", tmp_path / "build")
    assert (tmp_path / "build" / "segment").exists()


def test_what_is_wrong_is_said(tmp_path: Path, program: Path) -> None:
    need("sh")
    model, library = tmp_path / "model.onnx", onnxruntime_library()
    write_green_finder(model, metadata={"other": "entry"})
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    for arguments, reason in [
        ((tmp_path / "missing.onnx", library), "cannot be loaded"),
        ((tmp_path / "damaged.onnx", library), "cannot be loaded"),
        ((model, library), "no polypstream contract"),
        ((model, tmp_path / "missing.so"), "ONNX Runtime does not load"),
    ]:
        line = " ".join(map(str, (program, *arguments, "bgr", 64, 48, model, tmp_path / "out")))
        assert reason in run("sh", "-c", f"{line} 2>&1 || true")
