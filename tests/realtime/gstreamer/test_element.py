"""The element in real pipelines: it changes only the markers' pixels, delays nothing, and posts what it detects."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.realtime.gstreamer.environment import PLUGIN_FOLDER, environment, exports
from polypstream.realtime.gstreamer.inference import ElementInference, InferenceConfig, Mode
from polypstream.realtime.gstreamer.mapped import FORMATS, Layout, MappedPicture
from polypstream.realtime.live.display_frame import draw_on
from polypstream.realtime.outlines.drawing import MarkerStyle
from tests.live_frames import marker
from tests.models import write_green_finder

pytestmark = pytest.mark.realtime

WIDTH, HEIGHT, RATE = 322, 242, 25
X, Y, RADIUS = 150, 120, 60
PYTHON = "/usr/bin/python3"
FFMPEG_NAMES = {"I420": "yuv420p", "NV12": "nv12", "BGR": "bgr24"}


@cache
def missing() -> str:
    """Reason why pipelines cannot run here; empty if they can."""
    if shutil.which("gst-launch-1.0") is None:
        return "gst-launch-1.0 is not installed"
    try:
        version = subprocess.run(
            [PYTHON, "-c", "import gi, sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return f"{PYTHON} has no gi"
    if version.stdout.strip() != "{}.{}".format(*sys.version_info[:2]):
        return f"GStreamer's Python is {version.stdout.strip()}, another version than that of the tests"
    with tempfile.TemporaryDirectory() as folder:  # a user's registry may have banned a loader that once failed
        alone = {**os.environ, **environment(), "GST_REGISTRY": str(Path(folder) / "registry.bin")}
        loader = subprocess.run(["gst-inspect-1.0", "python"], env=alone, capture_output=True, check=False)
    return "GStreamer's loader for Python elements is not installed" if loader.returncode else ""


@pytest.fixture
def gstreamer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment for pipelines, with a separate registry, as in an activated virtual environment."""
    if missing():
        pytest.skip(missing())
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("GST_REGISTRY", str(tmp_path / "registry.bin"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_green_finder(tmp_path / "green.onnx")


PLAY = """
import json, sys, time
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst

Gst.init(None)
description, changes, entered, left, messages = sys.argv[1], json.loads(sys.argv[2]), {}, {}, []
pipeline = Gst.parse_launch(description)
overlay = pipeline.get_by_name("overlay")

def enter(pad, info):
    for name, value in changes.get(str(len(entered)), {}).items():
        overlay.set_property(name, value)
    entered[info.get_buffer().pts] = time.monotonic()
    return Gst.PadProbeReturn.OK

def leave(pad, info):
    left[info.get_buffer().pts] = time.monotonic()
    return Gst.PadProbeReturn.OK

overlay.get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, enter)
overlay.get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, leave)
pipeline.set_state(Gst.State.PLAYING)
wanted = Gst.MessageType.EOS | Gst.MessageType.ERROR | Gst.MessageType.WARNING | Gst.MessageType.ELEMENT
caps = ""
while True:
    message = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, wanted)
    structure = message.get_structure() if message else None
    if message is None or message.type == Gst.MessageType.EOS:
        caps = overlay.get_static_pad("src").get_current_caps().to_string()
        break
    if message.type == Gst.MessageType.ELEMENT:
        names = [structure.nth_field_name(i) for i in range(structure.n_fields())]
        messages.append({"name": structure.get_name(), **{name: structure.get_value(name) for name in names}})
    elif message.type == Gst.MessageType.WARNING:
        messages.append({"name": "warning", "text": message.parse_warning()[0].message})
    else:
        messages.append({"name": "error", "text": message.parse_error()[0].message})
        break
pipeline.set_state(Gst.State.NULL)
took = [left[pts] - entered[pts] for pts in left]
print(json.dumps({"messages": messages, "entered": list(entered), "left": list(left), "took": took, "caps": caps}))
"""


def play(description: str, changes: dict[int, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Run a pipeline with an element named overlay; change its properties after the given number of frames."""
    done = subprocess.run(
        [PYTHON, "-c", PLAY, description, json.dumps(changes or {})],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    played: dict[str, Any] = json.loads(done.stdout)
    assert [message["text"] for message in played["messages"] if message["name"] == "error"] == []
    return played


def scene(seed: int) -> NDArray[np.uint8]:
    """Mucosa with a green disc: uint8 RGB."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rgb = np.array([170, 80, 60]) + 30 * np.sin(columns / 9)[..., None] * np.cos(rows / 7)[..., None]
    rgb[np.hypot(rows - Y, columns - X) < RADIUS] = (60, 200, 90)
    return np.clip(rgb + rng.normal(0, 12, rgb.shape), 0, 255).astype(np.uint8)


def raw_file(path: Path, name: str, *, frames: int) -> Path:
    """Frames in GStreamer's layout: rows padded to four bytes, a plane's rows to an even number."""
    with path.open("wb") as file:
        for seed in range(frames):
            picture = av.VideoFrame.from_ndarray(scene(seed), format="rgb24").reformat(format=FFMPEG_NAMES[name])
            for samples, across in zip(plane_arrays(picture), row_lengths(name), strict=True):
                file.write(np.pad(samples[:, :across], ((0, 0), (0, -across % 4))).tobytes())
    return path


def plane_rows(name: str) -> list[int]:
    return {"I420": [HEIGHT, HEIGHT // 2, HEIGHT // 2], "NV12": [HEIGHT, HEIGHT // 2], "BGR": [HEIGHT]}[name]


def row_lengths(name: str) -> list[int]:
    return {"I420": [WIDTH, WIDTH // 2, WIDTH // 2], "NV12": [WIDTH, WIDTH], "BGR": [3 * WIDTH]}[name]


def distances(name: str) -> NDArray[np.float64]:
    """Distance of each byte of a frame from the disc's edge, in pixels."""
    found = []
    for plane, (rows, across) in enumerate(zip(plane_rows(name), row_lengths(name), strict=True)):
        down = HEIGHT // rows
        interleaved = 3 if name == "BGR" else 2 if name == "NV12" and plane else 1
        row, byte = np.mgrid[:rows, : across + -across % 4]
        x, y = (byte // interleaved + 0.5) * down, (row + 0.5) * down
        found.append(np.abs(np.hypot(x - X, y - Y) - RADIUS).ravel())
    return np.concatenate(found)


def source(path: Path, name: str) -> str:
    """Start of a pipeline that plays a raw file."""
    kind = name.lower()
    return f"filesrc location={path} ! rawvideoparse format={kind} width={WIDTH} height={HEIGHT} framerate={RATE}/1"


def frames_of(path: Path, count: int) -> NDArray[np.uint8]:
    return np.fromfile(path, np.uint8).reshape(count, -1)


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_marker_is_drawn_and_format_and_times_stay(
    tmp_path: Path, gstreamer: None, model: Path, name: str
) -> None:
    sent = raw_file(tmp_path / "sent.raw", name, frames=60)
    overlay = f"polypoverlay name=overlay model={model} backend=onnxruntime mode=every-frame"
    played = play(f"{source(sent, name)} ! {overlay} ! filesink location={tmp_path / 'got.raw'}")
    assert f"format=(string){name}" in played["caps"]
    assert played["left"] == played["entered"]
    assert len(played["left"]) == 60
    before, after = frames_of(sent, 60), frames_of(tmp_path / "got.raw", 60)
    differs = before != after
    near = distances(name) < 16
    assert not differs[:, ~near].any()
    assert differs[-1][near].sum() > 500
    appeared, vanished = (
        [m for m in played["messages"] if m["name"] == kind] for kind in ("polyp-appeared", "polyp-vanished")
    )
    assert len(appeared) == len(vanished) == 1
    assert appeared[0]["pts"] in played["left"]
    assert not differs[: played["left"].index(appeared[0]["pts"])].any()
    assert appeared[0]["x"] == pytest.approx(X - RADIUS, abs=8)
    assert appeared[0]["width"] == pytest.approx(2 * RADIUS, abs=16)
    assert vanished[0]["identity"] == appeared[0]["identity"]
    assert vanished[0]["pts"] - appeared[0]["pts"] == pytest.approx(vanished[0]["duration"], abs=1e6)
    assert not [m for m in played["messages"] if m["name"] in {"warning", "error"}]


@pytest.mark.parametrize("name", FORMATS)
def test_without_outlines_nothing_changes_and_messages_still_come(
    tmp_path: Path, gstreamer: None, model: Path, name: str
) -> None:
    sent = raw_file(tmp_path / "sent.raw", name, frames=50)
    overlay = f"polypoverlay name=overlay model={model} backend=onnxruntime mode=every-frame outlines=false"
    played = play(f"{source(sent, name)} ! {overlay} ! filesink location={tmp_path / 'got.raw'}")
    assert (tmp_path / "got.raw").read_bytes() == sent.read_bytes()
    assert "polyp-appeared" in {message["name"] for message in played["messages"]}


def test_properties_change_while_it_plays(tmp_path: Path, gstreamer: None) -> None:
    model = write_green_finder(tmp_path / "unsure.onnx", gain=0.05, bias=-4)  # 0.95 on the disc
    sent = raw_file(tmp_path / "sent.raw", "I420", frames=150)
    overlay = f"polypoverlay name=overlay model={model} backend=onnxruntime mode=every-frame"
    changes: dict[int, dict[str, Any]] = {
        50: {"outlines": False},
        60: {"outlines": True},
        70: {"operating-point": "no such"},
        80: {"threshold": 0.98},
    }
    played = play(f"{source(sent, 'I420')} ! {overlay} ! filesink location={tmp_path / 'got.raw'}", changes)
    drawn = (frames_of(sent, 150) != frames_of(tmp_path / "got.raw", 150)).any(axis=1)
    assert drawn[40:50].all()
    assert not drawn[50:60].any()
    assert drawn[60:80].all()
    assert not drawn[-10:].any()
    assert any("has no operating point 'no such'" in message.get("text", "") for message in played["messages"])


def test_a_new_segment_whose_times_start_over_is_marked_as_the_first_was(
    tmp_path: Path, gstreamer: None, model: Path
) -> None:
    sent = raw_file(tmp_path / "sent.raw", "I420", frames=50)
    overlay = f"polypoverlay name=overlay model={model} backend=onnxruntime mode=every-frame"
    twice = " ".join(f"{source(sent, 'I420')} ! both." for _ in range(2))
    played = play(f"concat name=both ! {overlay} ! filesink location={tmp_path / 'got.raw'} {twice}")
    drawn = (frames_of(tmp_path / "got.raw", 100) != np.tile(frames_of(sent, 50), (2, 1))).any(axis=1)
    assert drawn[:50].sum() > 40
    np.testing.assert_array_equal(drawn[:50], drawn[50:])
    kinds = [message["name"] for message in played["messages"] if message["name"] != "polyp-status"]
    assert kinds == ["polyp-appeared", "polyp-vanished"] * 2


def marked_frames(model: Path, times: list[float]) -> list[int]:
    """Indices of frames with a marker, for frames with the disc at the given times."""
    picture = av.VideoFrame.from_ndarray(scene(0), format="rgb24").reformat(format="bgr24").to_ndarray()
    layout = Layout(pixel_format="BGR", width=WIDTH, height=HEIGHT, strides=(3 * WIDTH,), offsets=(0,))
    mapped = MappedPicture(memoryview(bytearray(np.ascontiguousarray(picture).tobytes())), layout)
    inference = ElementInference(InferenceConfig(model=model, backend="onnxruntime", mode=Mode.EVERY_FRAME))
    inference.start()
    try:
        return [index for index, at_s in enumerate(times) if inference.process(mapped, at_s=at_s, pts_s=at_s).markers]
    finally:
        inference.close()


def test_after_a_seek_back_without_notice_frames_are_marked_again(model: Path) -> None:
    there, back = [index / 25 for index in range(50)], [index / 25 for index in range(45)]
    marked = marked_frames(model, there + back)
    first = marked[0]
    assert first < 10
    assert marked == [*range(first, 50), *range(50 + first, 95)]


@pytest.mark.parametrize("repeated_s", [0.8, 0.76])
def test_a_repeated_or_disordered_time_drops_no_track(model: Path, repeated_s: float) -> None:
    times = [index / 25 for index in range(21)] + [repeated_s] + [index / 25 for index in range(21, 40)]
    marked = marked_frames(model, times)
    assert marked == list(range(marked[0], len(times)))
    assert marked[0] < 10


def test_frames_of_another_branch_are_not_changed(tmp_path: Path, gstreamer: None, model: Path) -> None:
    sent = raw_file(tmp_path / "sent.raw", "NV12", frames=50)
    overlay = f"polypoverlay name=overlay model={model} backend=onnxruntime mode=every-frame"
    play(
        f"{source(sent, 'NV12')} ! tee name=both"
        f" both. ! queue ! {overlay} ! filesink location={tmp_path / 'got.raw'}"
        f" both. ! queue ! filesink location={tmp_path / 'other.raw'}"
    )
    assert (tmp_path / "other.raw").read_bytes() == sent.read_bytes()
    assert (tmp_path / "got.raw").read_bytes() != sent.read_bytes()


@pytest.mark.slow
def test_a_live_pipeline_is_not_delayed_by_the_network(gstreamer: None) -> None:
    played = play(
        "videotestsrc is-live=true num-buffers=90 ! video/x-raw,format=I420,width=1280,height=720,framerate=30/1"
        " ! polypoverlay name=overlay backend=onnxruntime ! fakesink sync=false"
    )
    assert len(played["left"]) == 90
    assert np.percentile(played["took"], 50) < 0.025
    assert np.percentile(played["took"][10:], 95) < 0.1


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ("model=/nowhere/model.onnx", "there is no model at /nowhere/model.onnx"),
        ("backend=abacus", "there is no backend 'abacus'; choose one of auto"),
        ("mode=sometimes", "there is no mode 'sometimes'; set mode to one of live, every-frame"),
        ("operating-point=odd", "has no operating point 'odd'"),
    ],
)
def test_start_errors_are_reported_on_the_bus(gstreamer: None, properties: str, text: str) -> None:
    done = launched(f"videotestsrc num-buffers=3 ! video/x-raw,format=I420 ! polypoverlay {properties} ! fakesink")
    assert done.returncode != 0
    assert text in done.stderr


def test_a_missing_package_is_named_with_its_remedy(gstreamer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # Debian's own Python, without our virtual environment
    done = launched("videotestsrc num-buffers=3 ! video/x-raw,format=I420 ! polypoverlay ! fakesink")
    assert done.returncode != 0
    assert 'eval "$(python -m polypstream.realtime.gstreamer)"' in done.stderr


def test_a_model_that_returns_nan_is_reported_and_the_video_continues(tmp_path: Path, gstreamer: None) -> None:
    model = write_green_finder(tmp_path / "nan.onnx", gain=float("nan"))
    sent = raw_file(tmp_path / "sent.raw", "I420", frames=10)
    overlay = f"polypoverlay name=overlay model={model} backend=onnxruntime mode=every-frame"
    played = play(f"{source(sent, 'I420')} ! {overlay} ! filesink location={tmp_path / 'got.raw'}")
    assert (tmp_path / "got.raw").read_bytes() == sent.read_bytes()
    status = [message for message in played["messages"] if message["name"] == "polyp-status"][-1]
    assert status["light"] == "lost"
    assert status["reason"].startswith("the model does not work: the network returned values from nan")


def launched(pipeline: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["gst-launch-1.0", *pipeline.split()], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_documented_command_prints_what_to_export() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "polypstream.realtime.gstreamer"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == exports()
    assert f"export GST_PLUGIN_PATH={PLUGIN_FOLDER}" in exports()


def test_paths_that_are_set_already_are_kept() -> None:
    merged = environment({"GST_PLUGIN_PATH": f"/mine{os.pathsep}{PLUGIN_FOLDER}", "PYTHONPATH": "/also mine"})
    assert merged["GST_PLUGIN_PATH"] == f"{PLUGIN_FOLDER}{os.pathsep}/mine"
    assert merged["PYTHONPATH"].endswith(f"{os.pathsep}/also mine")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_drawing_on_a_buffer_equals_drawing_on_a_decoded_frame(name: str, size: tuple[int, int]) -> None:
    width, height = size
    layout, memory = padded_buffer(name, width, height)
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    decoded = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="gbrp" if name == "BGR" else FFMPEG_NAMES[name]
    )
    planes = plane_arrays(decoded)
    for rows, plane in zip(layout.rows(memoryview(memory)), as_stored(planes, name), strict=True):
        rows[:] = plane
    untouched = memory.copy()
    MappedPicture(memoryview(memory), layout).draw([marker(opacity=0.7)], MarkerStyle())
    draw_on(decoded, [marker(opacity=0.7)], MarkerStyle())
    for rows, plane in zip(layout.rows(memoryview(memory)), as_stored(plane_arrays(decoded), name), strict=True):
        np.testing.assert_array_equal(rows, plane)
    inside = np.zeros(len(memory), np.bool_)
    for rows in layout.rows(memoryview(inside.view(np.uint8))):
        rows[:] = 1
    np.testing.assert_array_equal(np.frombuffer(memory, np.uint8)[~inside], np.frombuffer(untouched, np.uint8)[~inside])
    assert memory != untouched


def padded_buffer(name: str, width: int, height: int) -> tuple[Layout, bytearray]:
    """A buffer whose rows and planes have gaps between them, filled with 99."""
    halves = -(-width // 2), -(-height // 2)
    sizes = {
        "I420": [(width, height), halves, halves],
        "NV12": [(width, height), (2 * halves[0], halves[1])],
        "BGR": [(3 * width, height)],
    }[name]
    strides = tuple(across + 13 for across, _ in sizes)
    lengths = [stride * rows + 7 for stride, (_, rows) in zip(strides, sizes, strict=True)]
    offsets = tuple(5 + sum(lengths[:plane]) for plane in range(len(sizes)))
    layout = Layout(pixel_format=name, width=width, height=height, strides=strides, offsets=offsets)
    return layout, bytearray([99]) * (5 + sum(lengths))


def plane_arrays(picture: av.VideoFrame) -> list[NDArray[np.uint8]]:
    planes: Any = picture.planes
    return [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in planes]


def as_stored(planes: list[NDArray[np.uint8]], name: str) -> list[NDArray[np.uint8]]:
    """The planes of a decoded frame in GStreamer's layout, without padding."""
    width = 64 if planes[0].shape[0] == 48 else 63
    if name == "BGR":
        green, blue, red = (plane[:, :width] for plane in planes)
        return [np.stack((blue, green, red), axis=2).reshape(len(green), -1)]
    half = -(-width // 2)
    return [planes[0][:, :width], *(plane[:, : 2 * half if name == "NV12" else half] for plane in planes[1:])]
