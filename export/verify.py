"""Verification: how far the exported file is from the Keras network it was made from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from polypstream.errors import ModelError
from polypstream.export.network import float64_network
from polypstream.synthetic import SyntheticClip, frame_at

_CLIP = SyntheticClip(width=320, height=320)
_POLYP_IN_VIEW = (60, 160)

TOLERANCE = 1e-5
"""The largest difference in probability that an export may have anywhere."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Differences in probability over all pixels of all pictures, against the Keras network computed in float64.

    Float64, because Keras in float32 is itself off by more than the tolerance on trained weights: its mean over a
    large feature map loses digits, which the attention gates then amplify.
    """

    largest_difference: float
    """Of the ONNX file."""
    mean_difference: float
    """Of the ONNX file."""
    keras_rounding: float
    """Largest difference of Keras in float32, for comparison."""
    pictures: int

    @property
    def passed(self) -> bool:
        """Whether the file may be used; false as well where a difference is not a number."""
        return self.largest_difference <= TOLERANCE


def verify_against_keras(onnx_path: Path, keras_model: keras.Model, pictures: NDArray[np.uint8]) -> Verification:
    """Run the same pictures through the ONNX file and the Keras model, on the CPU.

    `keras_model` is a float32 network of static size; `pictures` are uint8 RGB (n, height, width, 3) of that size,
    n at least 1. Raises `ModelError` where shapes differ or ONNX Runtime refuses the file.
    """
    if len(pictures) == 0:
        raise ValueError("there are no pictures to verify with; give at least one")
    try:
        session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no other common base
        raise ModelError(f"ONNX Runtime refuses {onnx_path}: {error}") from error
    exact_model = float64_network(keras_model)
    of_onnx, of_keras = [], []
    for picture in pictures[:, np.newaxis]:
        exact = _keras_probability(exact_model, picture, np.float64)
        given = session.run(None, {session.get_inputs()[0].name: picture})[0]
        if given.shape != exact.shape:
            raise ModelError(f"the ONNX file gives {given.shape}, Keras gives {exact.shape}; export it again")
        of_onnx.append(np.abs(given - exact))
        of_keras.append(np.abs(_keras_probability(keras_model, picture, np.float32) - exact))
    return Verification(
        largest_difference=float(np.max(of_onnx)),
        mean_difference=float(np.mean(of_onnx)),
        keras_rounding=float(np.max(of_keras)),
        pictures=len(pictures),
    )


def verification_pictures(height: int, width: int) -> NDArray[np.uint8]:
    """Pictures that exercise a network without any data: uint8 RGB (6, height, width, 3), the same each time.

    Noise, which drives activations apart, three smooth ones in the colours of tissue, whose large structures reach the
    deep layers, and two of the synthetic colonoscopy with a polyp in view: where a good network finds none, all its
    answers are next to 0, and a fault could hide. None is of one colour: a trained network's unbounded gates may turn
    the last digit of such a picture into any answer, in Keras as well, which says nothing about the export.
    """
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with_polyp = (cv2.resize(frame_at(_CLIP, index).rgb, (width, height)) for index in _POLYP_IN_VIEW)
    return np.stack([noise, *(_smooth(height, width, waves) for waves in (0.7, 1.5, 3.0)), *with_polyp])


def _smooth(height: int, width: int, waves: float) -> NDArray[np.uint8]:
    """Folds, a bump, and corners that fall off into the dark."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phases, means = np.array([0.0, 0.4, 0.9]), np.array([170.0, 95.0, 75.0])
    angle = 2 * np.pi * waves
    wave = np.sin(angle * x[..., None] + phases) * np.cos(angle * y[..., None] - phases)
    bump = np.exp(-((x - 0.6) ** 2 + (y - 0.4) ** 2) / 0.02)[..., None]
    light = np.clip(1.3 - 2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2), 0, 1)[..., None]
    smooth: NDArray[np.uint8] = np.clip((means + 50 * wave + 60 * bump) * light, 0, 255).astype(np.uint8)
    return smooth


def _keras_probability(
    network: keras.Model, picture: NDArray[np.uint8], dtype: type[np.floating[Any]]
) -> NDArray[np.float64]:
    with keras.device("cpu:0"):
        probability = network(picture.astype(dtype) / dtype(255), training=False)
    return np.asarray(keras.ops.convert_to_numpy(probability), np.float64)
