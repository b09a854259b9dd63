"""De-identification: only the endoscope image is visible, nothing outside the body, and no names."""

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.realtime.annotate.batch import run_batch, runner_here
from polypstream.realtime.annotate.deidentify import Concealment, TimeInterval, case_name
from polypstream.realtime.annotate.inputs import InputVideo
from polypstream.realtime.annotate.job import AnnotateConfig, AnnotationReport, annotate_video
from polypstream.realtime.annotate.report.data import findings_of
from polypstream.realtime.annotate.summary import read_summary, summary_path
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.realtime.outlines.drawing import is_drawable
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.writer import Encoding
from tests.clips import read_packets
from tests.models import write_green_finder

WIDTH, HEIGHT, FRAMES = 320, 240, 250
OUTSIDE = range(0, 40)
"""Frames of the room, before insertion."""
DARK = range(140, 160)
"""Frames with the light off: only the text is bright."""
POLYP = range(180, 220)
CENTER, RADIUS = (200, 120), 100
NAME = "DOE"


def content() -> NDArray[np.bool_]:
    return cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), CENTER, RADIUS, 1, -1).astype(bool)


def frame(index: int, mucosa: NDArray[np.uint8], room: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The endoscope image in a black border with the patient's name."""
    inner = room if index in OUTSIDE else mucosa // 30 if index in DARK else mucosa.copy()
    if index in POLYP:
        cv2.circle(inner, (200, 110), 30, (30, 190, 60), -1)
    rgb = np.where(content()[..., np.newaxis], inner, np.uint8(0))
    for row, words in enumerate((NAME, "1970", "MRN 77")):
        cv2.putText(rgb, words, (6, 40 + 60 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    return np.ascontiguousarray(rgb)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def video(folder: Path) -> Path:
    """Ten seconds: the room, the colon, the light off, a polyp; with a name in every metadata field."""
    rng = np.random.default_rng(1)
    noise = rng.integers(-40, 40, (HEIGHT, WIDTH, 1))
    mucosa = np.uint8(np.clip(np.array([190, 110, 90]) + noise, 0, 255))
    room = np.uint8(np.clip(np.array([130, 130, 130]) + noise, 0, 255))
    cv2.rectangle(room, (180, 90), (220, 150), (20, 20, 20), -1)  # someone
    path = folder / f"{NAME}_JOHN.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.metadata["title"] = f"{NAME}^JOHN"
        sound = container.add_stream("libopus", rate=48000, layout="mono")
        sound.metadata["title"] = f"voice of {NAME}"
        container.add_attachment("letter.txt", "text/plain", f"Dear Mr {NAME}".encode())
        container.metadata.update({"title": f"{NAME}^JOHN", "comment": "MRN 77"})
        container.set_chapters(
            [{"id": 1, "start": 0, "end": 9000, "time_base": Fraction(1, 1000), "metadata": {"title": NAME}}]
        )
        for index in range(FRAMES):
            coded = av.VideoFrame.from_ndarray(frame(index, mucosa, room), format="rgb24").reformat(format="yuv420p")
            coded.pts, coded.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(coded))
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.float32), format="flt", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 48000, 1920 * index, Fraction(1, 48000)
            container.mux(sound.encode(heard))
        container.mux([*stream.encode(None), *sound.encode(None)])
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_green_finder(folder / "green.onnx")


@pytest.fixture(scope="module")
def done(folder: Path, video: Path, model: Path) -> AnnotationReport:
    config = AnnotateConfig(encoding=Encoding(preset="ultrafast"), deidentify=True, report=True)
    return annotate_video(video, folder / "out", segmenter_from_onnx(model), config)


def images(path: Path) -> list[NDArray[np.uint8]]:
    with VideoReader(path) as source:
        return [each.image for each in source.frames()]


def test_no_frame_shows_anything_but_the_endoscopes_image(done: AnnotationReport, video: Path) -> None:
    assert done.overlay is not None
    shown, original = images(done.overlay), images(video)
    assert len(shown) == FRAMES
    surround = cv2.dilate(content().astype(np.uint8), np.ones((5, 5))) == 0
    for image in shown:
        assert image[surround].max() <= 12
    inner = cv2.erode(content().astype(np.uint8), np.ones((21, 21))) > 0
    for index in (100, 130, 230):
        difference = np.abs(shown[index].astype(int) - original[index])[inner]
        assert difference.mean() < 8  # the image itself is as it was


def test_the_room_is_pixelated_with_a_margin(done: AnnotationReport, video: Path) -> None:
    assert done.overlay is not None
    shown = images(done.overlay)
    for index in (0, 20, OUTSIDE.stop - 1, OUTSIDE.stop + 20):
        flat = np.diff(shown[index][90:150, 180:220, 1].astype(int), axis=1)
        assert (np.abs(flat) <= 3).mean() > 0.8, index
    busy = np.diff(shown[OUTSIDE.stop + 40][90:150, 180:220, 1].astype(int), axis=1)
    assert (np.abs(busy) <= 3).mean() < 0.5


def test_contours_are_drawn_where_polyps_are(done: AnnotationReport) -> None:
    assert done.overlay is not None
    shown = images(done.overlay)[POLYP.start + 10]
    records = [json.loads(line) for line in done.records.read_text().splitlines()]
    assert [record["index"] for record in records if record["polyps"]] == list(POLYP)
    column, row = (int(value) for value in records[POLYP.start + 10]["polyps"][0]["contour"][0])
    near = shown[row - 2 : row + 3, column - 2 : column + 3].astype(int)
    assert (near[..., 1] - near[..., 0]).max() > 100


def test_no_output_holds_the_name_or_the_metadata(done: AnnotationReport, folder: Path, video: Path) -> None:
    outputs = list((folder / "out").iterdir())
    assert {path.name.split("_")[0] for path in outputs} == {case_name(video).stem}
    for path in outputs:
        data = path.read_bytes().replace(b"DOES", b"")
        for secret in (NAME, "MRN", "Mr ", "JOHN", "voice of", "letter.txt"):
            assert secret.encode() not in data, (path.name, secret)
    assert done.overlay is not None
    with av.open(str(done.overlay)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert not container.chapters()
        assert "title" not in container.metadata


def test_thumbnails_hide_the_border(done: AnnotationReport, video: Path) -> None:
    summary = read_summary(summary_path(done.records))
    seen: list[NDArray[np.uint8]] = []

    def hide(image: NDArray[np.uint8], _: float) -> NDArray[np.uint8]:
        seen.append(image)
        return np.zeros_like(image)

    findings = findings_of(summary, done.records, video, hide=hide)
    assert len(seen) == len(findings.thumbnails) == 1
    concealed = Concealment(content(), [TimeInterval(start_s=1, end_s=2)]).hide_image(seen[0], 0.0)
    surround = cv2.dilate(content().astype(np.uint8), np.ones((5, 5))) == 0
    assert not concealed[surround].any()
    assert np.array_equal(concealed[120, 200], seen[0][120, 200])
    assert not np.array_equal(
        Concealment(content(), [TimeInterval(start_s=0, end_s=2)]).hide_image(seen[0], 0.0), concealed
    )


def test_its_measures_and_limits_are_reported(done: AnnotationReport) -> None:
    account = read_summary(summary_path(done.records)).deidentification
    assert account is not None
    text = " ".join(account.done)
    assert "pixelated as outside the body: 0.0 to" in text
    assert "sound is removed" in text
    assert any("text and faces" in limit for limit in account.limits)
    assert set(account.done) <= set(done.notices)
    assert done.report is not None
    assert "Not guaranteed" in done.report.read_text()


def test_sound_is_kept_on_request_without_its_title(folder: Path, video: Path, model: Path) -> None:
    config = AnnotateConfig(encoding=Encoding(preset="ultrafast"), deidentify=True, keep_audio=True)
    kept = annotate_video(video, folder / "kept", segmenter_from_onnx(model), config)
    assert kept.overlay is not None
    assert [data for _, data in read_packets(kept.overlay, 1)] == [data for _, data in read_packets(video, 1)]
    assert NAME.encode() not in kept.overlay.read_bytes()
    assert any("voices" in notice for notice in kept.notices)


@pytest.mark.parametrize("changes", [{"soft_overlay": True}, {"proxy": True}])
def test_outputs_that_show_the_source_are_refused(changes: dict[str, bool]) -> None:
    with pytest.raises(ConfigError, match="de-identified"):
        AnnotateConfig(deidentify=True, **changes)  # type: ignore[arg-type]


def test_a_deidentified_batch_drops_folder_names(folder: Path, video: Path, model: Path) -> None:
    config = AnnotateConfig(encoding=None, deidentify=True)
    videos = [InputVideo(path=video, subfolder=Path(NAME))]
    out = folder / "batch"
    first = run_batch(videos, out, runner_here(segmenter_from_onnx(model), config), config, model="m")
    assert not first.failed
    assert {path.name for path in out.iterdir()} == {
        "annotate_manifest.jsonl",
        f"{case_name(video).stem}_polyps.jsonl",
        f"{case_name(video).stem}_summary.json",
    }
    assert all(NAME not in path.read_text() for path in out.iterdir())
    again = run_batch(videos, out, runner_here(segmenter_from_onnx(model), config), config, model="m")
    assert again.skipped == (video,)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "gray", "nv12", "gbrp", "yuv444p12le"])
def test_every_pixel_format_is_hidden(pixel_format: str) -> None:
    assert is_drawable(pixel_format)
    rgb = np.random.default_rng(0).integers(90, 200, (48, 64, 3), dtype=np.uint8)
    coded = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format)
    area = np.zeros((48, 64), np.bool_)
    area[:, 14:50] = True
    before = coded.to_ndarray(format="rgb24").astype(int)
    assert not Concealment(area, []).hide(coded, 0.0)
    after = coded.to_ndarray(format="rgb24").astype(int)
    assert after[:, :12].max() <= 3
    assert after[:, 52:].max() <= 3
    assert np.abs(after[:, 18:46] - before[:, 18:46]).max() <= 3
    assert Concealment(area, [TimeInterval(start_s=0, end_s=1)]).hide(coded, 0.5)
