"""OpenVINO on Intel and AMD processors (extra `[openvino]`)."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from polypstream.arrays import Probability, Rgb
from polypstream.contract import METADATA_KEY, ModelContract
from polypstream.errors import BackendError, MissingExtraError, ModelError
from polypstream.realtime.inference.base import SessionSegmenter, checked_image, checked_probability
from polypstream.scheduling import shares_of_cores, usable_cores

if TYPE_CHECKING:
    import openvino

Precision = Literal["f32", "bf16"]


class OpenVinoSegmenter(SessionSegmenter):
    """Runs a model in OpenVINO on the CPU. A context manager; not thread-safe.

    `precision` applies to floating-point layers. By default, OpenVINO uses bfloat16 on processors that support it; here
    it must be requested, since it changes contours.
    """

    def __init__(self, path: Path, *, precision: Precision = "f32", threads: int | None = None) -> None:
        try:
            import openvino
            from openvino import properties
        except ImportError as error:
            raise MissingExtraError(f"the openvino backend ({error})", "openvino") from None
        if not path.is_file():
            raise ModelError(f"there is no model at {path}; give the path of an ONNX file")
        self._path, self._precision, self._threads = path, precision, threads
        core = openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise ModelError(f"{path} cannot be loaded by OpenVINO ({_reason(error)}); export it again") from None
        try:
            self.contract = ModelContract.from_metadata(_metadata(model))
            self._check_signature(model)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        if precision == "bf16" and "BF16" not in core.get_property("CPU", properties.device.capabilities()):
            raise BackendError("this processor has no bfloat16 instructions; use the openvino backend without bf16")
        config: dict[str, object] = {
            properties.hint.inference_precision(): getattr(openvino.Type, precision),
            properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
        }
        if threads is not None:
            config[properties.inference_num_threads()] = threads
            config[properties.hint.enable_cpu_pinning()] = False  # several parallel ones would be pinned to one core
        try:
            self._request = core.compile_model(model, "CPU", config).create_infer_request()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot compile {path} ({_reason(error)}); use another backend") from None

    def _check_signature(self, model: "openvino.Model") -> None:
        size = [1, self.contract.height, self.contract.width]
        ports = [
            (port.get_element_type().get_type_name(), list(port.shape)) for port in (model.input(), model.output())
        ]
        if ports != [("u8", [*size, 3]), ("f32", [*size, 1])]:
            raise ModelError(f"the graph takes and returns {ports}, which differs from its contract; export it again")

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return "openvino" if self._precision == "f32" else "openvino-bf16"

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3)."""
        image = checked_image(rgb, self.contract)
        try:
            output = self._request.infer({0: image[None]}, share_inputs=True)[0]
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed ({_reason(error)}); free memory, or use another backend") from error
        return checked_probability(np.array(output[0, :, :, 0], dtype=np.float32))

    def in_parallel(self) -> Sequence["OpenVinoSegmenter"]:
        """Segmenters that divide the cores, the same objects on each call."""
        return self._side_by_side

    @cached_property
    def _side_by_side(self) -> Sequence["OpenVinoSegmenter"]:
        shares = shares_of_cores(self._threads or usable_cores())
        if len(shares) == 1:
            return (self,)
        return [OpenVinoSegmenter(self._path, precision=self._precision, threads=share) for share in shares]


def _metadata(model: "openvino.Model") -> dict[str, str]:
    """The contract's metadata in the ONNX file, which OpenVINO exposes as runtime information of the framework."""
    try:
        return {METADATA_KEY: model.get_rt_info(["framework", METADATA_KEY]).astype(str)}
    except RuntimeError:
        return {}


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
