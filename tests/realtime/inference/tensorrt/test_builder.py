"""The real TensorRT-RTX parses and builds without a GPU; errors name the node."""

import hashlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from polypstream import __version__
from polypstream.errors import (
    BackendError,
    ConfigError,
    MissingExtraError,
    ModelError,
    OutputError,
    ProviderMissingError,
)
from polypstream.models import default_model
from polypstream.realtime.inference.tensorrt import adapter, builder
from polypstream.realtime.inference.tensorrt.adapter import Log, Watch, load_tensorrt
from polypstream.realtime.inference.tensorrt.builder import BuildConfig, build_engine, targets_of
from polypstream.realtime.inference.tensorrt.engine_file import read_engine_file, sidecar_path
from polypstream.realtime.inference.tensorrt.onnx_file import read_onnx
from polypstream.realtime.inference.tensorrt.onnx_file import with_open_batch as with_batch_opened
from polypstream.realtime.inference.tensorrt.progress import BuildProgress
from tests.models import contract, write_green_finder

AHEAD = BuildConfig(targets=("sm89",))


def changed(path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def with_open_batch(path: Path) -> Path:
    def change(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "n"

    return changed(path, change)


def in_half(model: onnx.ModelProto) -> None:
    """Internal FP16, as in the export's conversion, on the tiny model."""
    nodes, weights = model.graph.node, model.graph.initializer
    nodes[0].CopyFrom(helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT16))
    nodes[-1].output[0] = "half"
    nodes.append(helper.make_node("Cast", ["half"], ["probability"], to=TensorProto.FLOAT))
    halved = [numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name) for one in weights]
    del weights[:]
    weights.extend(halved)
    del model.metadata_props[:]
    helper.set_model_props(model, contract(precision="fp16").to_metadata())


def in_int8(model: onnx.ModelProto) -> None:
    """Q/DQ around the product: symmetric int8, zero point 0."""
    graph = model.graph
    for name, value in (("scale", np.float32(2.0)), ("weight_scale", np.float32(0.2 / 127)), ("zero", np.int8(0))):
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    quantized = [
        helper.make_node("QuantizeLinear", ["real", "scale", "zero"], ["real_q"], "image_q"),
        helper.make_node("DequantizeLinear", ["real_q", "scale", "zero"], ["real_dq"], "image_dq"),
        helper.make_node("QuantizeLinear", ["weights", "weight_scale", "zero"], ["weights_q"], "weights_q"),
        helper.make_node("DequantizeLinear", ["weights_q", "weight_scale", "zero"], ["weights_dq"], "weights_dq"),
    ]
    graph.node[1].input[:] = ["real_dq", "weights_dq"]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([kept[0], *quantized, *kept[1:]])
    del model.metadata_props[:]
    helper.set_model_props(model, contract(precision="int8").to_metadata())


@pytest.mark.usefixtures("rtx")
def test_an_engine_and_its_description_are_written(green: Path, tmp_path: Path) -> None:
    reported: list[BuildProgress] = []
    engine = build_engine(green, folder=tmp_path / "out", config=AHEAD, on_progress=reported.append)
    assert engine.path.name == f"tiny-{engine.sidecar.key.digest}.engine"
    assert {file.name for file in engine.path.parent.iterdir()} == {engine.path.name, sidecar_path(engine.path).name}
    assert read_engine_file(engine.path).sidecar == engine.sidecar
    plain = json.loads(sidecar_path(engine.path).read_text(encoding="utf-8"))
    assert plain["contract"]["name"] == "tiny"
    assert plain["key"]["flavor"] == "rtx"
    assert plain["key"]["tensorrt_version"] == load_tensorrt("rtx").version
    assert plain["key"]["target"] == {"compute_capabilities": ["sm89"], "device_name": None}
    assert plain["key"]["largest_batch"] == 1
    assert plain["package_version"] == __version__
    assert plain["engine_bytes"] == engine.path.stat().st_size
    fractions = [now.fraction for now in reported]
    assert len(fractions) > 10
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(("precision", "change"), [("fp16", in_half), ("int8", in_int8)])
def test_the_precision_is_the_models(
    green: Path, tmp_path: Path, precision: str, change: Callable[[onnx.ModelProto], None]
) -> None:
    plain = build_engine(green, folder=tmp_path, config=AHEAD)
    engine = build_engine(changed(green, change), folder=tmp_path, config=AHEAD)
    assert engine.contract.precision == engine.sidecar.key.precision == precision
    assert engine.path != plain.path


@pytest.mark.usefixtures("rtx")
def test_an_open_batch_gets_a_range_and_a_static_one_does_not(green: Path, tmp_path: Path) -> None:
    static = build_engine(green, folder=tmp_path, config=AHEAD)
    assert static.sidecar.key.largest_batch == 1
    opened = build_engine(with_open_batch(green), folder=tmp_path, config=AHEAD)
    assert opened.sidecar.key.largest_batch == 8
    three = build_engine(green, folder=tmp_path, config=BuildConfig(targets=("sm89",), batch=3))
    assert three.sidecar.key.largest_batch == 3
    assert len({engine.path for engine in (static, opened, three)}) == 3


@pytest.mark.usefixtures("rtx")
def test_a_static_batch_is_opened_on_request_also_in_the_model_of_the_package(green: Path, tmp_path: Path) -> None:
    for path in (green, default_model("tensorrt")):
        engine = build_engine(path, folder=tmp_path, config=BuildConfig(targets=("sm89",), batch=4))
        assert engine.sidecar.key.largest_batch == 4
        assert engine.sidecar.key.onnx_sha256 == hashlib.sha256(path.read_bytes()).hexdigest(), "of the file as it is"


@pytest.mark.usefixtures("rtx")
def test_several_targets_in_any_order_are_one_engine(green: Path, tmp_path: Path) -> None:
    some = build_engine(green, folder=tmp_path, config=BuildConfig(targets=("sm120", "sm80", "sm120")))
    again = build_engine(green, folder=tmp_path, config=BuildConfig(targets=("sm80", "sm120")))
    assert some.sidecar.key.target.compute_capabilities == ("sm80", "sm120")
    assert some.path == again.path
    assert targets_of(load_tensorrt("rtx")) >= ("sm75", "sm80")


@pytest.mark.usefixtures("rtx")
def test_an_unknown_operator_is_reported_with_its_node(green: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[2].op_type, model.graph.node[2].name = "Bogus", "decoder1_gate/Bogus"

    with pytest.raises(
        BackendError, match=r"node 'decoder1_gate/Bogus' \(Bogus\): .*the onnxruntime backend"
    ) as caught:
        build_engine(changed(green, change), folder=tmp_path / "out", config=AHEAD)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("rtx")
def test_a_node_that_cannot_be_right_is_reported_with_its_node(green: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].CopyFrom(
            helper.make_node("Transpose", ["image"], ["turned"], "turn_first", perm=[0, 3, 1, 2])
        )
        model.graph.node.insert(1, helper.make_node("Cast", ["turned"], ["real"], "then_cast", to=TensorProto.FLOAT))

    with pytest.raises(BackendError, match="turn_first"):
        build_engine(changed(green, change), folder=tmp_path, config=AHEAD)


@pytest.mark.usefixtures("rtx")
def test_builder_failures_are_reported_with_the_reason(green: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"cannot build .* sm75 .*Turing.*another precision or target"):
        build_engine(green, folder=tmp_path, config=BuildConfig(targets=("sm75",)))


@pytest.mark.usefixtures("rtx")
def test_a_damaged_file_never_reaches_tensorrt(green: Path, tmp_path: Path) -> None:
    green.write_bytes(green.read_bytes()[:-40])
    with pytest.raises(ModelError, match="not an ONNX file, or is damaged"):
        build_engine(green, folder=tmp_path, config=AHEAD)


@pytest.mark.usefixtures("rtx")
def test_a_graph_that_only_tensorrt_finds_damaged_is_reported(green: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[1].input[0] = "nothing"

    with pytest.raises((ModelError, BackendError), match=re.escape(str(green))):
        build_engine(changed(green, change), folder=tmp_path, config=AHEAD)


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_callback_that_raises_ends_the_build(green: Path, tmp_path: Path, error: type[BaseException]) -> None:
    calls = []

    def stop(now: BuildProgress) -> None:
        calls.append(now)
        if len(calls) == 3:
            raise error

    with pytest.raises(error):
        build_engine(green, folder=tmp_path / "out", config=AHEAD, on_progress=stop)
    assert len(calls) == 3, "nothing is reported after that"
    assert not list((tmp_path / "out").iterdir())
    assert build_engine(green, folder=tmp_path / "out", config=AHEAD).path.exists()


@pytest.mark.usefixtures("rtx")
def test_tensorrt_writes_nothing_to_the_terminal(
    green: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build_engine(green, folder=tmp_path, config=AHEAD)
    with pytest.raises(BackendError):
        build_engine(green, folder=tmp_path, config=BuildConfig(targets=("sm75",)))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.usefixtures("rtx")
def test_without_a_driver_a_build_for_this_machine_is_one_line(
    green: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_index: int) -> None:
        raise ProviderMissingError("there is no NVIDIA driver on this machine")

    monkeypatch.setattr(builder, "find_device", absent)
    with pytest.raises(ProviderMissingError, match=r"no NVIDIA driver.*such as sm89"):
        build_engine(green, folder=tmp_path)


@pytest.mark.usefixtures("rtx", "fake_cuda")
def test_a_gpu_that_rtx_does_not_know_is_reported(green: Path, tmp_path: Path, fake_cuda: Any) -> None:
    fake_cuda.name, fake_cuda.capability = "NVIDIA H100 80GB HBM3", (9, 0)
    with pytest.raises(BackendError, match=r"does not support the NVIDIA H100 .*\[tensorrt\]"):
        build_engine(green, folder=tmp_path, config=BuildConfig(flavor="rtx"))
    with pytest.raises(ConfigError, match="does not build for sm90; choose from sm75"):
        build_engine(green, folder=tmp_path, config=BuildConfig(targets=("sm90",)))


@pytest.mark.usefixtures("rtx")
def test_an_unwritable_folder_is_reported_before_the_build(green: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reported: list[BuildProgress] = []
    with pytest.raises(OutputError, match="cannot be written"):
        build_engine(green, folder=tmp_path / "file" / "out", config=AHEAD, on_progress=reported.append)
    assert not reported


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "at least 1"),
        ({"workspace_bytes": 10}, "at least 1 MiB"),
        ({"targets": ("8.9",)}, "'8.9' is not a compute capability; write it as sm89"),
        ({"targets": ("sm89",), "flavor": "tensorrt"}, "targets need TensorRT-RTX"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildConfig(**changes)


def test_tensorrt_comes_first_then_rtx_and_a_broken_one_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in found:
            raise ModuleNotFoundError(name)
        if isinstance(found[name], Exception):
            raise found[name]
        return found[name]

    monkeypatch.setattr(importlib, "import_module", load)
    monkeypatch.setattr(adapter, "_recorder", lambda _module, _log: None)
    load_fresh = load_tensorrt.__wrapped__
    with pytest.raises(MissingExtraError, match=r"\[tensorrt\]"):
        load_fresh()
    with pytest.raises(MissingExtraError, match=r"\[rtx\]"):
        load_fresh("rtx")
    found["tensorrt"] = OSError("libcudart.so.13: cannot open\nshared object file")
    with pytest.raises(BackendError, match=r"tensorrt is installed but cannot be loaded \(libcudart.*reinstall it"):
        load_fresh()
    module = type(sys)("tensorrt_rtx")
    module.__version__ = "1.7"  # type: ignore[attr-defined]
    found["tensorrt_rtx"] = module
    assert load_fresh().product == "TensorRT-RTX 1.7"
    newer = type(sys)("tensorrt")
    newer.__version__ = "11.4"  # type: ignore[attr-defined]
    found["tensorrt"] = newer
    assert load_fresh().product == "TensorRT 11.4"
    assert load_fresh("rtx").flavor == "rtx"


def test_each_watch_has_the_newest_messages_of_its_block() -> None:
    log = Log()
    log.record("before")
    with log.watching() as watch:
        assert watch.reason == "TensorRT gives no reason"
        with log.watching() as inner:
            log.record("inner")
        for index in range(Watch.CAPACITY + 5):
            log.record(f"line\n  {index}")
    log.record("after")
    assert watch.reason == f"line {Watch.CAPACITY + 4}"
    assert len(watch.messages) == Watch.CAPACITY
    assert list(inner.messages) == ["inner"]


NO_DRIVER = """
import sys
from pathlib import Path
from polypstream.errors import PolypstreamError
from polypstream.realtime.inference.tensorrt.builder import BuildConfig, build_engine
from polypstream.realtime.inference.tensorrt.segmenter import TensorRtSegmenter
from polypstream.realtime.inference.tensorrt.cache import engine_for, open_engine
onnx, folder = Path(sys.argv[1]), Path(sys.argv[2])
ahead = build_engine(onnx, folder=folder, config=BuildConfig(targets=("sm89",)))
for attempt in (
    lambda: TensorRtSegmenter(onnx, folder=folder),
    lambda: TensorRtSegmenter(ahead.path),
    lambda: engine_for(onnx, folder),
    lambda: open_engine(ahead.path),
    lambda: build_engine(onnx, folder=folder),
):
    try:
        attempt()
    except PolypstreamError as error:
        print(error)
    else:
        sys.exit("there is a GPU")
"""


@pytest.mark.usefixtures("rtx")
def test_without_a_driver_the_process_survives_and_reports_it(green: Path, tmp_path: Path) -> None:
    """The real cuda-bindings and TensorRT-RTX, in a separate process, so that a crash is detected."""
    pytest.importorskip(
        "cuda.bindings.runtime", reason="cuda-bindings is not installed: pip install 'polypstream[rtx]'"
    )
    done = subprocess.run(
        [sys.executable, "-c", NO_DRIVER, str(green), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "there is a GPU" in done.stderr:
        pytest.skip("this machine has an NVIDIA driver")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all("no NVIDIA driver" in line and "the onnxruntime backend" in line for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("name", ["resunetpp", "resunetpp-lite2"])
def test_the_network_builds_in_every_precision(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The full network through the real export, at a small input size."""
    from polypstream.export.toolchain import load_toolchain

    load_toolchain()
    from polypstream.export.config import ExportConfig
    from polypstream.export.exporter import export_model
    from polypstream.export.int8 import recipe as int8
    from polypstream.train.networks.registry import NETWORKS

    monkeypatch.setattr(int8, "_MAY_BE_LEFT_OUT", {"tensorrt": ()})  # the search for sensitive nodes takes minutes
    network = NETWORKS[name].build(height=64, width=64, widths=NETWORKS[name].widths)
    network.save(tmp_path / "network.keras")
    for index, rgb in enumerate(np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), rgb)
    built = {}
    for precision in ("fp32", "fp16", "int8"):
        report = export_model(
            ExportConfig(
                model=tmp_path / "network.keras",
                output=tmp_path / f"{precision}.onnx",
                name=f"full-{precision}",
                precision=precision,
                engine="tensorrt",
                calibration=() if precision == "fp32" else (tmp_path,),
            )
        )
        built[precision] = build_engine(report.output, folder=tmp_path, config=AHEAD).sidecar
        assert built[precision].contract.precision == built[precision].key.precision == precision
        assert with_batch_opened(read_onnx(report.output)).has_open_batch
    weights_bytes = 4 * network.count_params()
    assert 0.9 * weights_bytes < built["fp32"].engine_bytes < 2.5 * weights_bytes
    assert built["fp16"].engine_bytes < 0.65 * built["fp32"].engine_bytes
    # A lite network has many small depthwise layers, in which 8 bits save little.
    assert built["int8"].engine_bytes < (0.65 if name == "resunetpp" else 0.85) * built["fp32"].engine_bytes
    with capsys.disabled():
        for precision, sidecar in built.items():
            size, seconds = sidecar.engine_bytes / 1e6, sidecar.build_seconds
            print(f"\n{name} {precision}, 64x64: {size:.1f} MB in {seconds:.1f} s", end=" ")


def test_the_tiny_models_of_these_tests_are_valid(tmp_path: Path) -> None:
    for name, change in (("half", in_half), ("int8", in_int8)):
        onnx.checker.check_model(changed(write_green_finder(tmp_path / f"{name}.onnx"), change), full_check=True)
