"""ONNX Runtime: on the CPU by default, on an NVIDIA GPU where its CUDA or TensorRT provider is installed."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from polypstream.contract import ModelContract
from polypstream.errors import BackendError, ModelError, ProviderMissingError
from polypstream.onnxruntime_options import session_options
from polypstream.realtime.backends.base import SessionSegmenter
from polypstream.realtime.backends.checks import checked_picture, checked_probability
from polypstream.realtime.backends.cores import shares_of_cores, usable_cores
from polypstream.realtime.frame import Probability, Rgb

Provider = Literal["CPU", "CUDA", "Tensorrt"]


class OnnxRuntimeSegmenter(SessionSegmenter):
    """Runs a model in ONNX Runtime. A context manager; one thread at a time may call it.

    Raises `ModelError` where the file is not one of ours, `BackendError` where the provider cannot start.
    """

    def __init__(self, path: Path, *, provider: Provider = "CPU", threads: int | None = None) -> None:
        wanted = f"{provider}ExecutionProvider"
        if wanted not in ort.get_available_providers():
            raise ProviderMissingError(
                f"this ONNX Runtime has no {wanted}; install onnxruntime-gpu in its place, or use the CPU"
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
        self.notices: tuple[str, ...] = ()

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB picture (height, width, 3)."""
        picture = checked_picture(rgb, self.contract)
        (output,) = self._session.run([self._output], {self._input: picture[None]})
        return checked_probability(np.asarray(output, dtype=np.float32)[0, :, :, 0])

    def in_parallel(self) -> Sequence["OnnxRuntimeSegmenter"]:
        """On the CPU, segmenters that share its cores out among them, the same each time; on a GPU this one alone."""
        return self._side_by_side if self._provider == "CPU" else (self,)

    @cached_property
    def _side_by_side(self) -> Sequence["OnnxRuntimeSegmenter"]:
        shares = shares_of_cores(self._threads or usable_cores())
        return [OnnxRuntimeSegmenter(self._path, threads=share) for share in shares] if len(shares) > 1 else (self,)


def _session(path: Path, provider: str, threads: int | None) -> ort.InferenceSession:
    if not path.is_file():
        raise ModelError(f"there is no model at {path}; give the path of an ONNX file")
    fallback = [] if provider == "CPUExecutionProvider" else ["CPUExecutionProvider"]
    try:
        return ort.InferenceSession(str(path), session_options(threads=threads), providers=[provider, *fallback])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exceptions share no base class
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path} cannot be loaded as an ONNX model ({reason}); export it again") from None


def _checked_signature(session: ort.InferenceSession, contract: ModelContract) -> tuple[str, str]:
    """Names of the input and output, if both are what the contract promises."""
    size = [1, contract.height, contract.width]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    actual = [(i.type, i.shape) for i in inputs], [(o.type, o.shape) for o in outputs]
    if actual != ([("tensor(uint8)", [*size, 3])], [("tensor(float)", [*size, 1])]):
        raise ModelError(
            f"the graph takes {actual[0]} and gives {actual[1]}, its contract says otherwise; export it again"
        )
    return inputs[0].name, outputs[0].name
