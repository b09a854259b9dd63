"""Models run in ONNX Runtime while they are being made: what they answer, what happens inside, how long it takes."""

import time
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from polypstream.errors import ModelError
from polypstream.export.lookup import Array
from polypstream.onnxruntime_options import session_options

Pictures = NDArray[np.uint8]
"""RGB (n, height, width, 3), of the model's size."""


def session_of(model: ModelProto) -> ort.InferenceSession:
    """A session on the CPU that keeps its remarks to itself; `ModelError` where ONNX Runtime refuses the model."""
    try:
        return ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exceptions share no base class
        raise ModelError(f"ONNX Runtime refuses the model ({str(error).splitlines()[0]}); export it again") from None


def probabilities(model: ModelProto, pictures: Pictures) -> NDArray[np.float32]:
    """The model's answer to each picture, (n, height, width)."""
    session = session_of(model)
    name = session.get_inputs()[0].name
    answers = [session.run(None, {name: picture})[0] for picture in pictures[:, np.newaxis]]
    return np.concatenate(answers).astype(np.float32)[..., 0]


def observed(model: ModelProto, pictures: Pictures, *, tensors: Collection[str]) -> Iterator[Mapping[str, Array]]:
    """The values of the named tensors on one picture after the other. Names that the model lacks are an error."""
    session = session_of(_with_outputs(model, tensors))
    taken, names = session.get_inputs()[0].name, list(tensors)
    for picture in pictures[:, np.newaxis]:
        yield dict(zip(names, session.run(names, {taken: picture}), strict=True))


def float_tensors(model: ModelProto) -> list[str]:
    """The float32 tensors that nodes make, in graph order. The shapes must be known."""
    values = (*model.graph.value_info, *model.graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [name for node in model.graph.node for name in node.output if name in floats]


def frame_ms(models: Mapping[str, ModelProto], *, rounds: int = 7) -> dict[str, float]:
    """Milliseconds that a frame takes in each model, the median of rounds in which every one has its turn."""
    sessions = {name: session_of(model) for name, model in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, session in sessions.items():
            image = session.get_inputs()[0]
            frame = {image.name: np.full(image.shape, 96, np.uint8)}
            began = time.perf_counter()
            session.run(None, frame)
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: float(np.median(times[1:])) for name, times in taken.items()}


def _with_outputs(model: ModelProto, tensors: Collection[str]) -> ModelProto:
    copy: ModelProto = ModelProto.FromString(model.SerializeToString())
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors if name not in present)
    return copy
