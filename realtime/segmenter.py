"""From an ONNX file to something that segments: checks the contract, then picks the backend."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnxruntime as ort

from polypstream.contract import ModelContract
from polypstream.errors import BackendError, ConfigError, ModelError
from polypstream.realtime.frame import Probability, Rgb

Backend = Literal["auto", "onnxruntime"]


def segmenter_from_onnx(
    path: Path | str, *, backend: str = "auto", threads: int | None = None
) -> "OnnxRuntimeSegmenter":
    """Open a model; raises `ModelError` where it is not one of ours and `ConfigError` for an unknown backend.

    `threads` is how many CPU threads one inference may use; None means all cores.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"there is no backend '{backend}'; choose one of {', '.join(get_args(Backend))}")
    return OnnxRuntimeSegmenter(Path(path), threads=threads)


class OnnxRuntimeSegmenter:
    """Runs the model in ONNX Runtime on the CPU. A context manager; one thread at a time may call it."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        if not path.is_file():
            raise ModelError(f"there is no model at {path}; give the path of an ONNX file")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exceptions share no base class
            reason = str(error).splitlines()[0]
            raise ModelError(f"{path} cannot be loaded as an ONNX model ({reason}); export it again") from None
        try:
            self.contract = ModelContract.from_metadata(self._session.get_modelmeta().custom_metadata_map)
            self._check_signature()
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    def _check_signature(self) -> None:
        size = [1, self.contract.height, self.contract.width]
        wanted = [("tensor(uint8)", [*size, 3])], [("tensor(float)", [*size, 1])]
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        actual = [(i.type, i.shape) for i in inputs], [(o.type, o.shape) for o in outputs]
        if actual != wanted:
            raise ModelError(
                f"the graph takes {actual[0]} and gives {actual[1]}, its contract says otherwise; export it again"
            )
        self._input, self._output = inputs[0].name, outputs[0].name

    @property
    def height(self) -> int:
        """Rows of the picture the network takes."""
        return self.contract.height

    @property
    def width(self) -> int:
        """Columns of the picture the network takes."""
        return self.contract.width

    def __enter__(self) -> "OnnxRuntimeSegmenter":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to release: the session lives as long as this object."""

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB picture (height, width, 3)."""
        if rgb.dtype != np.uint8 or rgb.shape != (self.height, self.width, 3):
            raise BackendError(
                f"the network takes uint8 RGB of {(self.height, self.width, 3)}, received {rgb.dtype} {rgb.shape}"
            )
        (output,) = self._session.run([self._output], {self._input: rgb[None]})
        return checked_probability(np.asarray(output, dtype=np.float32)[0, :, :, 0])


def checked_probability(probability: Probability) -> Probability:
    """The map itself, if every value is a number in [0, 1]; else `BackendError`, so that nothing is drawn from it."""
    low, high = float(probability.min()), float(probability.max())
    if not (low >= 0 and high <= 1):
        raise BackendError(
            f"the network returned values from {low} to {high} where probabilities belong; "
            "the model is damaged or its precision too low for it: try the fp32 model"
        )
    return probability
