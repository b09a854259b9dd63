"""Verification: how far the exported file is from the Keras network it was made from."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from polypstream.errors import ModelError

TOLERANCE = 1e-5
"""The largest difference in probability that an export may have anywhere."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Differences in probability between the ONNX file and Keras in float32, over all pixels of all pictures."""

    largest_difference: float
    mean_difference: float
    pictures: int

    @property
    def passed(self) -> bool:
        """Whether the file may be used; false as well where a difference is not a number."""
        return self.largest_difference <= TOLERANCE


def verify_against_keras(onnx_path: Path, keras_model: keras.Model, pictures: NDArray[np.uint8]) -> Verification:
    """Run the same pictures through the ONNX file and the float32 Keras model, both on the CPU.

    `pictures`: uint8 RGB (n, height, width, 3), n at least 1, at the model's size. Raises `ModelError` where the two
    give different shapes or ONNX Runtime refuses the file.
    """
    if len(pictures) == 0:
        raise ValueError("there are no pictures to verify with; give at least one")
    try:
        session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no other common base
        raise ModelError(f"ONNX Runtime refuses {onnx_path}: {error}") from error
    differences = [_difference(session, keras_model, picture[np.newaxis]) for picture in pictures]
    return Verification(
        largest_difference=float(np.max(differences)),
        mean_difference=float(np.mean(differences)),
        pictures=len(pictures),
    )


def verification_pictures(height: int, width: int) -> NDArray[np.uint8]:
    """Pictures that exercise a network without any data: uint8 RGB (4, height, width, 3), the same each time.

    Noise, which drives activations apart; two smooth tissue-like ones, whose large structures reach the deep layers;
    and black, where the borders' zero padding shows.
    """
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.stack([noise, _smooth(height, width, 1.0), _smooth(height, width, 2.5), np.zeros_like(noise)])


def _smooth(height: int, width: int, waves: float) -> NDArray[np.uint8]:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phases, means = np.array([0.0, 0.4, 0.9]), np.array([170.0, 95.0, 75.0])
    angle = 2 * np.pi * waves
    wave = np.sin(angle * x[..., None] + phases) * np.cos(angle * y[..., None] - phases)
    bump = np.exp(-((x - 0.6) ** 2 + (y - 0.4) ** 2) / 0.02)[..., None]
    smooth: NDArray[np.uint8] = np.clip(means + 50 * wave + 60 * bump, 0, 255).astype(np.uint8)
    return smooth


def _difference(
    session: onnxruntime.InferenceSession, keras_model: keras.Model, picture: NDArray[np.uint8]
) -> NDArray[np.float32]:
    with keras.device("cpu:0"):
        expected = keras.ops.convert_to_numpy(keras_model(picture.astype(np.float32) / 255, training=False))
    given = session.run(None, {session.get_inputs()[0].name: picture})[0]
    if given.shape != expected.shape:
        raise ModelError(f"the ONNX file gives {given.shape}, Keras gives {expected.shape}; export it again")
    difference: NDArray[np.float32] = np.abs(given - expected)
    return difference
