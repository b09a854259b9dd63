"""ONNX Runtime: on the CPU, or on an NVIDIA GPU with its CUDA or TensorRT provider."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from polypstream.arrays import Probability, Rgb
from polypstream.contract import ModelContract
from polypstream.errors import BackendError, ModelError, ProviderMissingError
from polypstream.onnxruntime_options import session_options
from polypstream.realtime.inference.base import SessionSegmenter, checked_image, checked_probability, reason_of
from polypstream.scheduling import shares_of_cores, usable_cores

Provider = Literal["CPU", "CUDA", "Tensorrt"]
_BACKENDS: Mapping[Provider, str] = {
    "CPU": "onnxruntime",
    "CUDA": "onnxruntime-cuda",
    "Tensorrt": "onnxruntime-tensorrt",
}


class OnnxRuntimeSegmenter(SessionSegmenter):
    """Runs a model in ONNX Runtime. A context manager; thread-safe only with `threads=1`.

    Raises `ModelError` if the file was not made by `polypstream export`, `BackendError` if the provider cannot start.
    """

    def __init__(self, path: Path, *, provider: Provider = "CPU", threads: int | None = None) -> None:
        wanted = f"{provider}ExecutionProvider"
        if wanted not in ort.get_available_providers():
            raise ProviderMissingError(
                f"this ONNX Runtime has no {wanted}; replace it by onnxruntime-gpu, or use the CPU"
            )
        self._path, self._provider, self._threads = path, provider, threads
        self._session = _session(path, wanted, threads)
        if self._session.get_providers()[0] != wanted:
            raise BackendError(f"ONNX Runtime's {wanted} does not start here; see: polypstream doctor")
        try:
            self.contract = ModelContract.from_metadata(self._session.get_modelmeta().custom_metadata_map)
            self._input, self._output = _checked_signature(self._session, self.contract)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return _BACKENDS[self._provider]

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3)."""
        image = checked_image(rgb, self.contract)
        try:
            (output,) = self._session.run([self._output], {self._input: image[None]})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise BackendError(
                f"ONNX Runtime's {self._provider} provider failed ({reason_of(error)}); free memory, or use another "
                "backend"
            ) from error
        return checked_probability(np.asarray(output, dtype=np.float32)[0, :, :, 0])

    def in_parallel(self) -> Sequence["OnnxRuntimeSegmenter"]:
        """On the CPU, segmenters that divide its cores, the same objects on each call; on a GPU only this one.

        Those with one thread are one object: ONNX Runtime then computes each call in the calling thread, and the
        weights are loaded only once.
        """
        return self._side_by_side if self._provider == "CPU" else (self,)

    @cached_property
    def _side_by_side(self) -> Sequence["OnnxRuntimeSegmenter"]:
        shares = shares_of_cores(self._threads or usable_cores())
        if len(shares) == 1:
            return (self,)
        alone = OnnxRuntimeSegmenter(self._path, threads=1) if 1 in shares else self
        return [alone if share == 1 else OnnxRuntimeSegmenter(self._path, threads=share) for share in shares]


def _session(path: Path, provider: str, threads: int | None) -> ort.InferenceSession:
    if not path.is_file():
        raise ModelError(f"there is no model at {path}; give the path of an ONNX file")
    fallback = [] if provider == "CPUExecutionProvider" else ["CPUExecutionProvider"]
    try:
        return ort.InferenceSession(str(path), session_options(threads=threads), providers=[provider, *fallback])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base class
        raise ModelError(f"{path} cannot be loaded as an ONNX model ({reason_of(error)}); export it again") from None


def _checked_signature(session: ort.InferenceSession, contract: ModelContract) -> tuple[str, str]:
    """Return the names of input and output; raises `ModelError` if they differ from the contract."""
    size = [1, contract.height, contract.width]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    actual = [(i.type, i.shape) for i in inputs], [(o.type, o.shape) for o in outputs]
    if actual != ([("tensor(uint8)", [*size, 3])], [("tensor(float)", [*size, 1])]):
        raise ModelError(
            f"the graph takes {actual[0]} and returns {actual[1]}, which differs from its contract; export it again"
        )
    return inputs[0].name, outputs[0].name
