"""A float32 ONNX brought into the precision that an export asks for, and how far its answers move by that."""

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from polypstream.errors import ModelError
from polypstream.export.calibration import with_dark_ones
from polypstream.export.config import Engine, Precision
from polypstream.export.fp16 import fp16_from_fp32, hazards
from polypstream.export.int8 import int8_from_fp32
from polypstream.export.session import Pictures, probabilities


@dataclass(frozen=True, kw_only=True)
class PrecisionLoss:
    """Differences in probability to the float32 model, in ONNX Runtime, over the pictures a precision is fitted to."""

    mean_difference: float
    largest_difference: float
    pictures: int
    kept_fp32: tuple[str, ...]
    """What stays in float32: tensors of an fp16 file, nodes of an int8 one."""


def narrowed(
    model: ModelProto, pictures: Pictures, *, precision: Precision, engine: Engine
) -> tuple[ModelProto, PrecisionLoss]:
    """The model in fp16 or int8, fitted to the pictures. Raises `ModelError` where an answer is not a number."""
    kept: tuple[str, ...]
    if precision == "fp16":
        kept = tuple(hazards(model, with_dark_ones(pictures)))
        made = fp16_from_fp32(model, keep_fp32=kept)
    else:
        int8 = int8_from_fp32(model, pictures, engine=engine)
        made, kept = int8.model, int8.left_out
    answers = probabilities(made, with_dark_ones(pictures))
    if not np.isfinite(answers).all():
        raise ModelError(
            f"the {precision} model answers with what is no number; use fp32, and report it with the model"
        )
    moved = np.abs(answers[: len(pictures)] - probabilities(model, pictures))
    return made, PrecisionLoss(
        mean_difference=float(moved.mean()),
        largest_difference=float(moved.max()),
        pictures=len(pictures),
        kept_fp32=kept,
    )
