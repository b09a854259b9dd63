"""The public `Result`: the polyps in one image, in pixels of the image."""

import weakref
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from polypstream.arrays import Mask, Probability, Rgb
from polypstream.errors import ConfigError, MissingExtraError
from polypstream.realtime.outlines.contours import Polyp, mask_from_polyps, polyps_from_probability
from polypstream.realtime.outlines.drawing import CASING_RGB, MarkerStyle, draw_on_planes
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.planes import Plane

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Polyps in one image. Everything is computed from the network's output on first use."""

    model_probability: Probability = field(repr=False)
    """Network output, float32 (model height, model width); 0 outside the content area."""
    threshold: float
    """Probability from which a pixel is polyp."""
    min_peak: float = 0.0
    """Probability that a region must reach somewhere."""
    width: int
    """Size of the image in pixels."""
    height: int
    source: "Rgb | Frame | weakref.ref[Frame]" = field(repr=False)
    """The image. A video frame is referenced weakly, so that stored results do not keep frames in memory."""

    def __post_init__(self) -> None:
        if isinstance(self.source, Frame):
            object.__setattr__(self, "source", weakref.ref(self.source))

    @cached_property
    def polyps(self) -> tuple[Polyp, ...]:
        """Contour, box, area and score of each polyp, largest first."""
        return tuple(
            polyps_from_probability(
                self.model_probability,
                threshold=self.threshold,
                min_peak=self.min_peak,
                width=self.width,
                height=self.height,
            )
        )

    @cached_property
    def mask(self) -> Mask:
        """Pixels enclosed by the contours, bool (height, width)."""
        return mask_from_polyps(self.polyps, width=self.width, height=self.height)

    @cached_property
    def probability(self) -> Probability:
        """Probability of polyp per pixel, float32 (height, width), scaled bilinearly from the network's output."""
        size = (self.width, self.height)
        return np.asarray(cv2.resize(self.model_probability, size, interpolation=cv2.INTER_LINEAR), np.float32)

    def plot(self, image: Rgb | None = None) -> Rgb:
        """Outline every polyp on the image.

        Args:
            image: Background, uint8 RGB (height, width, 3), which is copied; None for the predicted image.

        Returns:
            A new uint8 RGB array (height, width, 3).

        Raises:
            ConfigError: The image has another size, or the video frame has been released.
        """
        drawn = np.array(self._image() if image is None else image, dtype=np.uint8)
        if drawn.shape != (self.height, self.width, 3):
            raise ConfigError(f"the image is {drawn.shape}; the result is for ({self.height}, {self.width}, 3)")
        style = MarkerStyle()
        planes = [Plane(samples=drawn[..., channel], luma_per_sample=(1, 1), bits=8, shift=0) for channel in range(3)]
        draw_on_planes(planes, self.polyps, style, line=style.rgb, casing=CASING_RGB)
        return drawn

    def to_supervision(self) -> "supervision.Detections":
        """Boxes, masks and scores for Roboflow's `supervision` (extra `[supervision]`), class 0 for polyp.

        Raises:
            MissingExtraError: `supervision` is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingExtraError(f"to_supervision ({error})", "supervision") from None
        count = len(self.polyps)
        masks = [mask_from_polyps([polyp], width=self.width, height=self.height) for polyp in self.polyps]
        boxes = [(x, y, x + width, y + height) for x, y, width, height in (polyp.box for polyp in self.polyps)]
        return supervision.Detections(
            xyxy=np.array(boxes, np.float32).reshape(count, 4),
            mask=np.array(masks, np.bool_).reshape(count, self.height, self.width),
            confidence=np.array([polyp.score for polyp in self.polyps], np.float32),
            class_id=np.zeros(count, np.intp),
            data={"class_name": np.full(count, "polyp")},
        )

    def _image(self) -> Rgb:
        image = self.source() if isinstance(self.source, weakref.ref) else self.source
        if isinstance(image, Frame):
            return image.image
        if image is None:
            raise ConfigError("the video frame has been released; call plot earlier, or plot(image) with a copy")
        return image
