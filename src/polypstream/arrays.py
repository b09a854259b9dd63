"""Names of the array types that modules exchange, with shapes, dtypes and color order.

This module is separate because every other one imports it. The names are plain `numpy.typing.NDArray` aliases: type
checkers only verify their dtypes.
"""

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
"""Color image, uint8 (H, W, 3), red first, R'G'B' in full range (0 to 255)."""
Bgr = NDArray[np.uint8]
"""Color image in OpenCV's order, uint8 (H, W, 3), blue first, full range (0 to 255)."""
Probability = NDArray[np.float32]
"""Probability map, float32 (H, W) in [0, 1]: the probability that each pixel shows a polyp."""
Mask = NDArray[np.bool_]
"""Pixel mask, bool (H, W)."""
Contour = NDArray[np.float32]
"""Closed curve, float32 (n, 2): x, y of each vertex; the last one is joined to the first.

In pixels of the source frame unless stated otherwise. Coordinates are continuous: the center of pixel (0, 0) is at
(0.5, 0.5).
"""
Size = tuple[int, int]
"""Width and height in pixels."""
