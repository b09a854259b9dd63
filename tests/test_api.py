"""Public API: fast to import, typed, complete; functions stay functions after any import."""

import ast
import inspect
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import polypstream as ps
from polypstream.contract import OperatingPoint
from polypstream.errors import PolypstreamError
from polypstream.synthetic import SyntheticClip, write_clip
from tests.clips import make_clip
from tests.discs import write_discs
from tests.models import contract, write_green_finder

HEAVY = ("cv2", "av", "numpy", "onnxruntime", "openvino", "keras", "tensorflow", "typer", "rich")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_loads_nothing_but_itself() -> None:
    loaded = "import sys; before = set(sys.modules); import polypstream; new = set(sys.modules) - before"
    assert run(f"{loaded}; print([name for name in {HEAVY!r} if name in new])") == "[]"
    others = "new - {'polypstream'} - {name for name in new if name.split('.')[0] in sys.stdlib_module_names}"
    assert run(f"{loaded}; print({others})") == "set()"


def test_every_public_name_exists_and_is_documented() -> None:
    assert len(ps.__all__) <= 20
    assert set(ps.__all__) <= set(dir(ps))
    for name in ps.__all__:
        value = getattr(ps, name)
        assert isinstance(value, str) if name == "__version__" else len(inspect.getdoc(value) or "") > 30
    errors = [getattr(ps, name) for name in ps.__all__ if name.endswith("Error")]
    assert all(issubclass(error, PolypstreamError) for error in errors)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ps.nonsense  # type: ignore[attr-defined] # noqa: B018


def test_a_folder_with_a_functions_name_is_callable_in_any_order_of_imports() -> None:
    use = "import inspect; assert callable(ps.train) and callable(ps.export); print(inspect.signature(ps.train))"
    orders = (
        "import polypstream as ps; from polypstream.train.config import TrainConfig",
        "from polypstream.train.config import TrainConfig; import polypstream as ps",
        "import polypstream as ps; ps.train; import polypstream.export.config",
        "from polypstream import export, train; import polypstream as ps",
    )
    assert len({run(f"{order}; {use}") for order in orders}) == 1
    with pytest.raises(PolypstreamError, match="not a data set"):
        ps.train(["/nowhere"])


PROGRAM = '''
"""Every public name in a user program."""
from pathlib import Path

import polypstream as ps

model: ps.Model = ps.load_model("mine.onnx", backend="onnxruntime", threads=2)
result: ps.Result = model.predict(Path("frame.jpg"), threshold=0.4)
polyps: tuple[ps.Polyp, ...] = result.polyps
size: float = polyps[0].box[2] * polyps[0].box[3] + polyps[0].area + polyps[0].score
shape: tuple[int, ...] = polyps[0].contour.shape + (result.mask & (result.probability > 0.1)).shape
with ps.open_video("clip.mp4") as video:
    width: int = video.info.width
    for frame, found in model.predict_stream(video):
        print(frame.index, frame.pts_s, found.plot(frame.image).shape, found.to_supervision())
report = ps.annotate("clip.mp4", "out", model=model, on_progress=lambda progress: print(progress.frames))
batch = ps.annotate_batch(["clips", "more/*.mkv"], jobs=2, on_progress=lambda step: print(step.seconds_left))
assert not batch.failed
with ps.live("/dev/video0", model=model, operating_point="specific") as feed:
    for shown in feed:
        print(shown.image.shape, [polyp.box for polyp in shown.polyps], shown.status.reason, feed.status.light)
best: Path = ps.train(["kvasir"], run="runs/first")
exported = ps.export(best, "mine.onnx", precision="int8", calibration=["kvasir"])
try:
    print(ps.evaluate(exported.output, ["kvasir"]).datasets[0].dice.mean, report.overlay, ps.__version__)
    of_video = ps.evaluate_video(best, "clip.mp4", masks="masks")
    print(of_video.dice, ps.evaluate_records("out/clip_polyps.jsonl", "corrected.xml").dice)
except (ps.ModelError, ps.BackendError, ps.SourceError, ps.OutputError, ps.ConfigError, ps.PolypstreamError):
    raise
'''


def test_a_user_program_is_clean_under_strict_mypy_and_wrong_names_are_not(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    used = {
        node.attr
        for node in ast.walk(ast.parse(PROGRAM))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ps"
    }
    assert used == set(ps.__all__)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    checked = subprocess.run([*command, str(program)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    program.write_text(PROGRAM.replace("ps.load_model(", "ps.load_modell("), encoding="utf-8")
    checked = subprocess.run([*command, str(program)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'has no attribute "load_modell"' in checked.stdout


def test_annotate_writes_what_the_command_writes(tmp_path: Path) -> None:
    clip, model = make_clip(tmp_path / "clip.mp4"), write_green_finder(tmp_path / "m.onnx")
    report = ps.annotate(str(clip), str(tmp_path / "out"), model=str(model), codec="ffv1")
    assert report.frames == 12
    assert report.overlay is not None
    assert report.overlay.is_file()
    assert len(report.records.read_text(encoding="utf-8").splitlines()) == 12
    with ps.load_model(model) as loaded:
        again = ps.annotate(clip, tmp_path / "again", model=loaded, records_only=True)
        assert again.overlay is None
        assert again.records.read_text(encoding="utf-8") == report.records.read_text(encoding="utf-8")


def test_annotate_uses_the_threshold_and_smallest_region_of_an_operating_point(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip, SyntheticClip(width=96, height=96, seconds=0.2))
    points = (
        OperatingPoint(name="eager", threshold=0.01, min_area_share=0),
        OperatingPoint(name="large", threshold=0.01, min_area_share=0.999),
        OperatingPoint(name="strict", threshold=0.99999),
    )
    metadata = contract(operating_points=points).to_metadata()
    model = write_green_finder(tmp_path / "m.onnx", metadata=metadata, gain=-0.1, bias=-4.0)
    found = {
        name: ps.annotate(clip, tmp_path, model=model, operating_point=name, records_only=True).polyps
        for name in ("eager", "large", "strict")
    }
    assert found["eager"] > 0
    assert found["large"] == found["strict"] == 0
    with pytest.raises(ps.ConfigError, match="choose one of eager, large, strict"):
        ps.annotate(clip, tmp_path, model=model, operating_point="specific")


def test_annotate_uses_the_minimum_peak_of_the_model_unless_a_threshold_is_given(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip, SyntheticClip(width=96, height=96, seconds=0.2))
    model = write_green_finder(
        tmp_path / "m.onnx", metadata=contract(threshold=0.01, min_peak=0.999).to_metadata(), gain=-0.1, bias=-4.0
    )
    assert ps.annotate(clip, tmp_path / "all", model=model, threshold=0.01, records_only=True).polyps > 0
    report = ps.annotate(clip, tmp_path / "strong", model=model, records_only=True)
    assert report.polyps == 0
    summary = json.loads(report.records.with_name("clip_summary.json").read_text(encoding="utf-8"))
    assert (summary["threshold"], summary["min_peak"]) == (0.01, 0.999)


@pytest.mark.realtime
def test_live_gives_every_frame_with_its_status_and_ends_its_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    clip = make_clip(tmp_path / "clip.mp4", frames=10)
    points = OperatingPoint(name="eager", threshold=0.3), OperatingPoint(name="patient", threshold=0.6)
    model = write_green_finder(tmp_path / "m.onnx", metadata=contract(operating_points=points).to_metadata())
    with ps.live(clip, model=model, operating_point="patient", threshold=0.7) as feed:
        assert (feed.operating_point.name, feed.operating_point.threshold) == ("patient", 0.7)
        feed.set_operating_point()
        assert feed.operating_point.name == "eager"
        shown = list(feed)
    assert len(shown) + feed.frames_dropped == 10
    assert shown[0].image.shape == (48, 64, 3)
    assert set(threading.enumerate()) <= before
    with pytest.raises(ps.ConfigError, match="choose one of eager, patient"):
        ps.live(clip, model=model, operating_point="specific")
    assert set(threading.enumerate()) <= before


@pytest.mark.slow
def test_a_briefly_trained_network_is_exported_loaded_and_evaluated(tmp_path: Path) -> None:
    """Training, export, inference and evaluation through public names."""
    write_discs(tmp_path / "discs", 40)
    code = f"""
import polypstream as ps
best = ps.train([{str(tmp_path / "discs")!r}], run={str(tmp_path / "run")!r}, size=32, epochs=1)
report = ps.export(best, {str(tmp_path / "mine.onnx")!r}, name="mine", version="1")
with ps.load_model(report.output, backend="onnxruntime") as model:
    assert model.contract.name == "mine", model
    print(ps.evaluate(model, [{str(tmp_path / "discs")!r}], split="val").datasets[0].with_polyp)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0
