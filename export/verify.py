"""Verification: compares the exported file with the Keras network it was made from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from polypstream.errors import ModelError
from polypstream.export.keras import float64_network
from polypstream.synthetic import SyntheticClip, frame_at

_CLIP = SyntheticClip(width=320, height=320)
_POLYP_IN_VIEW = (60, 160)

TOLERANCE = 1e-5
"""Largest allowed difference in probability at any pixel."""
ROUNDING_FACTOR = 3
"""The allowed difference relative to the rounding error of Keras in float32, if that is larger than `TOLERANCE`, as in
barely trained networks, whose gates amplify the last digit."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Differences in probability over all pixels of all images, relative to the Keras network computed in float64.

    The reference is float64 because Keras in float32 is itself off by more than the tolerance with trained weights:
    its mean over a large feature map loses digits, which the attention gates then amplify.
    """

    largest_difference: float
    """Largest difference of the ONNX file."""
    mean_difference: float
    """Mean difference of the ONNX file."""
    keras_rounding: float
    """Largest difference of Keras in float32, for comparison."""
    images: int

    @property
    def allowed_difference(self) -> float:
        """`TOLERANCE`, or `ROUNDING_FACTOR` times the rounding error of Keras in float32 if that is larger."""
        return max(TOLERANCE, ROUNDING_FACTOR * self.keras_rounding)

    @property
    def passed(self) -> bool:
        """Whether the file may be used; false also if a difference is NaN."""
        return self.largest_difference <= self.allowed_difference


def verify_against_keras(onnx_path: Path, keras_model: keras.Model, images: NDArray[np.uint8]) -> Verification:
    """Run the same images through the ONNX file and the Keras model on the CPU.

    Args:
        onnx_path: The exported file.
        keras_model: Float32 network of static size.
        images: At least one image, uint8 RGB (n, height, width, 3), of that size.

    Returns:
        The differences of the ONNX file and of Keras in float32 from Keras in float64.

    Raises:
        ModelError: The output shapes differ, or ONNX Runtime rejects the file.
    """
    if len(images) == 0:
        raise ValueError("no images to verify with were given; pass at least one")
    try:
        session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no other base class
        raise ModelError(f"ONNX Runtime rejects {onnx_path}: {error}") from error
    exact_model = float64_network(keras_model)
    of_onnx, of_keras = [], []
    for image in images[:, np.newaxis]:
        exact = _keras_probability(exact_model, image, np.float64)
        given = session.run(None, {session.get_inputs()[0].name: image})[0]
        if given.shape != exact.shape:
            raise ModelError(f"the ONNX file returns {given.shape}, Keras returns {exact.shape}; export it again")
        of_onnx.append(np.abs(given - exact))
        of_keras.append(np.abs(_keras_probability(keras_model, image, np.float32) - exact))
    return Verification(
        largest_difference=float(np.max(of_onnx)),
        mean_difference=float(np.mean(of_onnx)),
        keras_rounding=float(np.max(of_keras)),
        images=len(images),
    )


def verification_images(height: int, width: int) -> NDArray[np.uint8]:
    """Create images that exercise a network without any data: uint8 RGB (6, height, width, 3), always the same.

    One image of noise, whose activations vary widely; three smooth ones in tissue colors, whose large structures reach
    the deep layers; and two frames of the synthetic colonoscopy with a visible polyp, because without one a good
    network returns values near 0 everywhere, which could hide a fault. No image has a single color: on such an image
    the unbounded gates of a trained network amplify the last digit, in Keras too, which says nothing about the export.
    """
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with_polyp = (cv2.resize(frame_at(_CLIP, index).rgb, (width, height)) for index in _POLYP_IN_VIEW)
    return np.stack([noise, *(_smooth(height, width, waves) for waves in (0.7, 1.5, 3.0)), *with_polyp])


def _smooth(height: int, width: int, waves: float) -> NDArray[np.uint8]:
    """Draw folds, a bump, and corners that fade to black."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phases, means = np.array([0.0, 0.4, 0.9]), np.array([170.0, 95.0, 75.0])
    angle = 2 * np.pi * waves
    wave = np.sin(angle * x[..., None] + phases) * np.cos(angle * y[..., None] - phases)
    bump = np.exp(-((x - 0.6) ** 2 + (y - 0.4) ** 2) / 0.02)[..., None]
    light = np.clip(1.3 - 2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2), 0, 1)[..., None]
    smooth: NDArray[np.uint8] = np.clip((means + 50 * wave + 60 * bump) * light, 0, 255).astype(np.uint8)
    return smooth


def _keras_probability(
    network: keras.Model, image: NDArray[np.uint8], dtype: type[np.floating[Any]]
) -> NDArray[np.float64]:
    with keras.device("cpu:0"):
        probability = network(image.astype(dtype) / dtype(255), training=False)
    return np.asarray(keras.ops.convert_to_numpy(probability), np.float64)
