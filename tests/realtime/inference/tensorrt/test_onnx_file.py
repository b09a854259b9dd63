"""Contract and signature read without the `onnx` package agree with it; damage is reported."""

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from polypstream.errors import ModelError
from polypstream.models import INT8, PLAIN, default_model, shipped_model
from polypstream.realtime.inference.tensorrt.onnx_file import read_onnx, with_open_batch
from tests.models import SIZE, contract, write_green_finder


def test_it_reads_what_was_written(green: Path) -> None:
    found = read_onnx(green)
    assert found.contract == contract()
    assert (found.input_name, found.output_name) == ("image", "probability")
    assert found.sha256 == hashlib.sha256(green.read_bytes()).hexdigest()
    assert not found.has_open_batch


@pytest.mark.parametrize("batch", ["n", None])
def test_an_open_batch_is_seen(green: Path, batch: str | None) -> None:
    model = onnx.load(green)
    for value in (*model.graph.input, *model.graph.output):
        side = value.type.tensor_type.shape.dim[0]
        side.Clear()
        if batch:
            side.dim_param = batch
    onnx.save(model, green)
    assert read_onnx(green).has_open_batch


def test_an_opened_batch_gives_each_image_the_answer_that_it_gets_alone(green: Path) -> None:
    for path in (green, shipped_model(PLAIN), default_model("tensorrt")):
        file = with_open_batch(read_onnx(path))
        assert file.has_open_batch
        run, run_batch = (onnxruntime.InferenceSession(data).run for data in (path.read_bytes(), file.data))
        shape = (3, file.contract.height, file.contract.width, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        alone = [run(None, {file.input_name: image[None]})[0] for image in images]
        np.testing.assert_allclose(run_batch(None, {file.input_name: images})[0], np.concatenate(alone), atol=1e-5)


def test_a_graph_for_one_image_keeps_its_batch() -> None:
    """The kernels of the 8-bit model for CPUs reshape one image."""
    file = read_onnx(shipped_model(INT8))
    assert with_open_batch(file) is file


def test_weights_that_are_listed_as_inputs_are_none(green: Path) -> None:
    model = onnx.load(green)
    model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1]))
    onnx.save(model, green)
    assert read_onnx(green).input_name == "image"


def test_weights_in_another_file_are_refused(green: Path) -> None:
    model = onnx.load(green)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(4096, np.float32), "more"))
    onnx.save(model, green, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ModelError, match="save it as a single file"):
        read_onnx(green)


@pytest.mark.parametrize(
    ("metadata", "shape", "message"),
    [
        ({}, (), "carries no polypstream contract"),
        (contract(height=128).to_metadata(), (), "differs from its contract"),
        (None, (SIZE, SIZE + 8), "differs from its contract"),
    ],
)
def test_a_foreign_model_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None, shape: tuple[int, ...], message: str
) -> None:
    path = write_green_finder(tmp_path / "odd.onnx", metadata=metadata, shape=shape)
    with pytest.raises(ModelError, match=message) as caught:
        read_onnx(path)
    assert str(path) in str(caught.value)


def test_files_that_are_not_onnx_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    with pytest.raises(ModelError, match="cannot be read"):
        read_onnx(path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_onnx(tmp_path)
    for content in (b"", b"hello", b"\x00" * 64, b"\xff" * 64, bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="not an ONNX file"):
            read_onnx(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(data=st.data())
def test_damage_anywhere_is_reported_and_never_a_crash(green: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = green.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[:at])
    with pytest.raises(ModelError):
        read_onnx(cut)
    changed = bytearray(whole)
    changed[at] = data.draw(st.integers(0, 255))
    cut.write_bytes(changed)
    with contextlib.suppress(ModelError):
        read_onnx(cut)
