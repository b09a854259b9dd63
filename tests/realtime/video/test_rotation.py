"""A rotated feed is displayed upright everywhere, with its markers in the right place."""

import gc
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.arrays import Bgr
from polypstream.realtime.live.display_frame import DisplayFrame, Light, Marker, Status
from polypstream.realtime.live.recording.feed import FeedRecorder
from polypstream.realtime.live.recording.overlay import OverlayConfig, OverlayRecorder
from polypstream.realtime.live.recording.snapshots import Snapshot, Snapshots
from polypstream.realtime.live.sources import source_from_address
from polypstream.realtime.live.viewers.messages import FrameMessages
from polypstream.realtime.live.viewers.window_layout import Arrangement, Readings, WindowPicture
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.video.container import display_matrix_of
from polypstream.realtime.video.encoding import Encoding
from polypstream.realtime.video.rotation import rotation_of
from tests.clips import make_clip
from tests.live_frames import live_frame, round_polyp
from tests.realtime.live.shown_frames import READY, STATISTICS

Matrix = tuple[int, ...]

WIDTH, HEIGHT = 192, 128
DISC_X, DISC_Y, RADIUS = 56, 40, 20
ONE, LAST = 1 << 16, 1 << 30
TURNED: dict[str, Matrix] = {
    "90": (0, -ONE, 0, ONE, 0, 0, 0, 0, LAST),
    "180": (-ONE, 0, 0, 0, -ONE, 0, 0, 0, LAST),
    "270": (0, ONE, 0, -ONE, 0, 0, HEIGHT * ONE, 0, LAST),
}
MIRRORED: dict[str, Matrix] = {
    "left-right": (-ONE, 0, 0, 0, ONE, 0, 0, 0, LAST),
    "up-down": (ONE, 0, 0, 0, -ONE, 0, 0, 0, LAST),
    "90-mirrored": (0, ONE, 0, ONE, 0, 0, 0, 0, LAST),
    "270-mirrored": (0, -ONE, 0, -ONE, 0, 0, 0, 0, LAST),
}
ALL = TURNED | MIRRORED
MARKER_BGR = np.array(MarkerStyle().rgb[::-1])
READINGS = Readings(status=READY, statistics=STATISTICS, video_delay=None)


def clip(path: Path, matrix: Matrix) -> Path:
    """A dark image, brighter to the right and the bottom, with a white disc left of and above the center."""
    y, x = np.indices((HEIGHT, WIDTH))
    gray = (20 + x // 4 + y // 2).astype(np.uint8)
    gray[np.hypot(x + 0.5 - DISC_X, y + 0.5 - DISC_Y) < RADIUS] = 235
    container = av.open(str(path), "w")
    stream = container.add_stream("libx264", rate=50, options={"qp": "0", "preset": "ultrafast"})
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    stream.set_display_matrix(matrix)
    for _ in range(3):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="gray").reformat(format="yuv420p")))
    container.mux(stream.encode(None))
    container.close()
    return path


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def matrix(request: pytest.FixtureRequest) -> Matrix:
    return tuple(request.param)


@pytest.fixture
def item(tmp_path: Path, matrix: Matrix) -> DisplayFrame:
    """The display frame of a live source for the clip, with a marker around the disc."""
    with source_from_address(str(clip(tmp_path / "clip.mp4", matrix))) as source:
        frame = next(iter(source))
    polyp = round_polyp(x=DISC_X, y=DISC_Y, radius=RADIUS)
    marker = Marker(identity=1, polyp=polyp, opacity=1.0)
    return DisplayFrame(frame=frame, markers=(marker,), status=Status(light=Light.READY), inference_age_s=0.0)


def upright(item: DisplayFrame, matrix: Matrix) -> Bgr:
    """The image transformed by the matrix, pixel by pixel."""
    coded = item.frame.picture.to_ndarray(format="bgr24")
    (a, b, _), (c, d, _) = matrix[:3], matrix[3:6]
    y, x = np.indices(coded.shape[:2])
    to_x, to_y = (a * x + c * y) // ONE, (b * x + d * y) // ONE
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    turned = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    turned[to_y, to_x] = coded
    return turned


def center_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """x, y of the center of the mask."""
    rows, columns = np.nonzero(mask)
    assert len(rows)
    return np.array([columns.mean(), rows.mean()]) + 0.5


def check_upright(shown: Bgr, item: DisplayFrame, matrix: Matrix, *, is_marked: bool) -> None:
    """Check that the image is upright and that a marker, if any, surrounds the disc."""
    expected = upright(item, matrix)
    assert shown.shape == expected.shape
    disc = cv2.dilate((expected[..., 1] > 200).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    error = np.abs(shown.astype(int) - expected).max(axis=2)
    assert error[~disc].max() < 12
    ink = np.abs(shown.astype(int) - MARKER_BGR).max(axis=2) < 60
    assert ink.any() == is_marked
    if is_marked:
        np.testing.assert_allclose(center_of(ink), center_of(expected[..., 1] > 200), atol=0.7)
        rows, columns = np.nonzero(ink)
        assert np.ptp(rows) == pytest.approx(2 * RADIUS, abs=3)
        assert np.ptp(columns) == pytest.approx(2 * RADIUS, abs=3)


@pytest.mark.parametrize("matrix", TURNED.values(), ids=TURNED.keys())
def test_rotation_equals_that_of_other_players(tmp_path: Path, item: DisplayFrame, matrix: Matrix) -> None:
    _, played = cv2.VideoCapture(str(tmp_path / "clip.mp4")).read()
    coded = item.frame.picture.to_ndarray(format="bgr24")
    np.testing.assert_array_equal(rotation_of(item.frame).image(coded), played)
    np.testing.assert_array_equal(upright(item, matrix), played)


def test_every_orientation_also_transforms_contours(item: DisplayFrame, matrix: Matrix) -> None:
    rotation, expected = rotation_of(item.frame), upright(item, matrix)
    np.testing.assert_array_equal(rotation.image(item.frame.picture.to_ndarray(format="bgr24")), expected)
    polyp = rotation.polyp(item.markers[0].polyp, width=WIDTH, height=HEIGHT)
    filled = np.zeros(expected.shape[:2], np.uint8)
    cv2.fillPoly(filled, [np.floor(polyp.contour).astype(np.int32)], 1)
    assert (filled.astype(bool) == (expected[..., 1] > 200)).mean() > 0.98
    np.testing.assert_allclose(center_of(filled > 0), center_of(expected[..., 1] > 200), atol=0.7)
    assert polyp.area == pytest.approx(item.markers[0].polyp.area)


def test_a_frame_without_a_matrix_is_unchanged() -> None:
    item = live_frame(0)
    coded = item.frame.picture.to_ndarray(format="bgr24")
    np.testing.assert_array_equal(rotation_of(item.frame).image(coded), coded)


def unpacked(message: bytes) -> tuple[dict[str, Any], Bgr]:
    """The header and the image of a message to the page."""
    start = 4 + int.from_bytes(message[:4], "big")
    jpeg = np.frombuffer(message[start:], np.uint8)
    return json.loads(message[4:start]), np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


def test_the_page_receives_an_upright_image_with_markers(item: DisplayFrame, matrix: Matrix) -> None:
    wide = replace(item, frame=replace(item.frame, sample_aspect_ratio=Fraction(4, 3)))
    header, shown = unpacked(FrameMessages(max_width=1280, quality=95).of_frame(wide, STATISTICS))
    check_upright(shown, item, matrix, is_marked=False)
    assert (header["height"], header["width"]) == shown.shape[:2]
    is_on_its_side = header["width"] == HEIGHT
    assert header["aspect"] == pytest.approx(3 / 4 if is_on_its_side else 4 / 3)
    points = np.array(header["markers"][0]["points"]).reshape(-1, 2)
    np.testing.assert_allclose(points.mean(axis=0), center_of(shown[..., 1] > 200), atol=0.7)


def test_a_rotated_image_is_scaled_to_fit_the_page(item: DisplayFrame) -> None:
    _, shown = unpacked(FrameMessages(max_width=96, quality=95).of_frame(item, STATISTICS))
    assert sorted(shown.shape[:2]) == [64, 96]


def test_the_window_shows_the_image_upright(item: DisplayFrame, matrix: Matrix) -> None:
    face = WindowPicture(width=WIDTH, style=MarkerStyle())
    expected = upright(item, matrix)
    (height, width), left = expected.shape[:2], (WIDTH - expected.shape[1]) // 2
    marked, plain = (face.of_frame(item, READINGS, Arrangement(overlay=overlay)) for overlay in (True, False))
    check_upright(marked[:height, left : left + width], item, matrix, is_marked=True)
    check_upright(plain[:height, left : left + width], item, matrix, is_marked=False)


def test_side_by_side_in_the_window_both_are_upright(item: DisplayFrame, matrix: Matrix) -> None:
    face = WindowPicture(width=2 * WIDTH, style=MarkerStyle())
    expected = upright(item, matrix)
    height, width = expected.shape[:2]
    both = face.of_frame(item, READINGS, Arrangement(side_by_side=True))
    left = WIDTH - width
    check_upright(both[:height, left : left + width], item, matrix, is_marked=False)
    check_upright(both[:height, left + width : left + 2 * width], item, matrix, is_marked=True)


@pytest.mark.parametrize("size", [(240, 320), (320, 240)])
@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_rotated_image_of_any_shape_fits_into_the_window(
    matrix: Matrix, size: tuple[int, int], side_by_side: bool
) -> None:
    item = live_frame(0, size=size)
    turned = replace(item, frame=replace(item.frame, display_matrix=matrix, sample_aspect_ratio=Fraction(4, 3)))
    contents = WindowPicture(width=200, style=MarkerStyle()).of_frame(
        turned, READINGS, Arrangement(side_by_side=side_by_side)
    )
    assert contents.shape[1] == 200
    assert contents.shape[0] <= 200 + 18  # the bar's


def test_snapshots_are_upright_and_their_record_is_of_what_they_show(
    tmp_path: Path, item: DisplayFrame, matrix: Matrix
) -> None:
    saved: list[Snapshot] = []
    folder = tmp_path / "snapshots"
    with Snapshots(
        folder, MarkerStyle(), on_saved=lambda files, _: saved.append(files), on_failed=pytest.fail
    ) as snapshots:
        snapshots.take(item)
    (files,) = saved
    plain, marked = (np.asarray(cv2.imread(str(path)), np.uint8) for path in (files.untouched, files.marked))
    check_upright(plain, item, matrix, is_marked=False)
    check_upright(marked, item, matrix, is_marked=True)
    (polyp,) = json.loads(files.record.read_text())["polyps"]
    left, top, width, height = polyp["box"]
    np.testing.assert_allclose((left + width / 2, top + height / 2), center_of(plain[..., 1] > 200), atol=0.7)
    np.testing.assert_allclose(np.mean(polyp["contour"], axis=0), center_of(plain[..., 1] > 200), atol=0.7)


def recorded(folder: Path, *items: DisplayFrame) -> tuple[Path, ...]:
    config = OverlayConfig(encoding=Encoding(quality="lossless", preset="ultrafast"))
    with OverlayRecorder(folder / "overlay.mkv", config, on_stopped=pytest.fail) as recorder:
        for item in items:
            recorder.show(item)
    return recorder.files


def test_the_overlay_is_tagged_with_the_rotation_of_its_source(
    tmp_path: Path, item: DisplayFrame, matrix: Matrix
) -> None:
    (path,) = recorded(tmp_path, item)
    with source_from_address(str(path)) as source:
        frame = next(iter(source))
    assert frame.display_matrix is not None
    assert [np.sign(value) for value in frame.display_matrix[:6]] == [np.sign(value) for value in matrix[:6]]
    shown = rotation_of(frame).image(frame.picture.to_ndarray(format="bgr24"))
    check_upright(shown, item, matrix, is_marked=True)


@pytest.mark.parametrize("matrix", TURNED.values(), ids=TURNED.keys())
def test_other_players_show_the_overlay_upright(tmp_path: Path, item: DisplayFrame, matrix: Matrix) -> None:
    (path,) = recorded(tmp_path, item)
    _, played = cv2.VideoCapture(str(path)).read()
    check_upright(np.asarray(played, np.uint8), item, matrix, is_marked=True)


def test_a_feed_that_is_rotated_differently_continues_in_another_file(tmp_path: Path) -> None:
    first = live_frame(0)
    then = replace(first, frame=replace(first.frame, display_matrix=TURNED["90"]))
    assert [path.name for path in recorded(tmp_path, first, then, then)] == ["overlay.mkv", "overlay-2.mkv"]


@pytest.mark.parametrize("matrix", [ALL["90"], ALL["left-right"]], ids=["90", "left-right"])
def test_the_feed_is_recorded_unchanged_with_its_matrix(tmp_path: Path, matrix: Matrix) -> None:
    came = clip(tmp_path / "clip.mp4", matrix)
    with FeedRecorder(tmp_path / "feed.mkv", on_stopped=pytest.fail) as recorder, av.open(str(came)) as container:
        for packet in container.demux(video=0):
            recorder.packet(packet)
    pictures = [first_picture(path) for path in (came, tmp_path / "feed.mkv")]
    np.testing.assert_array_equal(*(picture.to_ndarray() for picture in pictures))
    assert matrix_of(pictures[0])[:6] == matrix_of(pictures[1])[:6] == matrix[:6]


def first_picture(path: Path) -> av.VideoFrame:
    with av.open(str(path)) as container:
        pictures: Iterator[av.VideoFrame] = container.decode(video=0)
        return next(pictures)


def matrix_of(picture: av.VideoFrame) -> Matrix:
    everything: Any = picture.side_data
    return next(struct.unpack("=9i", bytes(data)) for data in everything if data.type.name == "DISPLAYMATRIX")


def test_the_virtual_camera_receives_an_upright_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: DisplayFrame, matrix: Matrix
) -> None:
    pytest.importorskip("pyvirtualcam", reason="needs the extra [camera]")
    from polypstream.realtime.live.viewers.virtual_camera import VirtualCamera

    sent: list[Bgr] = []

    class Screen:
        def __init__(self, width: int, height: int, **_: Any) -> None:
            self.shape = height, width, 3

        def send(self, rgb: NDArray[np.uint8]) -> None:
            sent.append(np.ascontiguousarray(rgb.reshape(self.shape)[..., ::-1]))

        def close(self) -> None: ...
        def device(self) -> str:
            return "screen"

        def native_fourcc(self) -> None: ...

    (tmp_path / "video7").mkdir()
    monkeypatch.setattr("polypstream.realtime.live.viewers.virtual_camera._DEVICES", tmp_path)
    monkeypatch.setattr("pyvirtualcam.camera.BACKENDS", {"screen": Screen})
    with VirtualCamera(on_stopped=pytest.fail) as camera:
        camera.show(item, STATISTICS)
    check_upright(sent[0], item, matrix, is_marked=True)


def test_a_frame_queried_for_its_rotation_is_freed_immediately(tmp_path: Path) -> None:
    """A frame kept until garbage collection holds megabytes, thirty times per second."""
    with av.open(str(make_clip(tmp_path / "clip.mp4", frames=3))) as container:
        pictures = list(container.decode(video=0))
    gc.collect()
    for picture in pictures:
        display_matrix_of(picture)
    del picture, pictures
    assert gc.collect() == 0
