"""A Keras network that is asked about one picture at a time, as the runtimes are."""

import keras
import numpy as np
from numpy.typing import NDArray


class PictureNetwork:
    """A network of one input size, (n, height, width, 3) to (n, height, width, 1)."""

    def __init__(self, network: keras.Model) -> None:
        _, self.height, self.width, _ = network.input_shape
        self._network = network

    def segment(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probability (height, width) of a uint8 RGB picture (height, width, 3)."""
        batch = rgb[np.newaxis].astype(np.float32) / np.float32(255)
        return np.asarray(self._network.predict_on_batch(batch)[0, :, :, 0], dtype=np.float32)
