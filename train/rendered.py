"""Rendered frames among the training images: the synthetic colonoscopy, with exact masks.

A network that has only seen real tissue marks some folds of the synthetic clip and misses some of its polyps, although
that clip is what a new user looks at first. Frames of other seeds can be added to the training images for that reason.
"""

from pathlib import Path

import cv2
import numpy as np

from polypstream.content import CropRule, crop_of
from polypstream.synthetic import SyntheticClip, frame_at
from polypstream.train.data import Pair, Samples

FIRST_SEED = 1000
"""Seeds below are not used for training: 0 is the demo, tests and benchmarks use the smallest ones."""
FRAMES_PER_SEED = 5
SEEDS_PER_CLEAN_ONE = 5
"""One of this many seeds is rendered without polyps."""
SECONDS = 60.0
"""Part of each clip from which frames are taken."""


def with_rendered(samples: Samples, count: int, *, crop: CropRule) -> Samples:
    """Append rendered frames to training images.

    Args:
        samples: Loaded images; the frames are scaled to their size.
        count: Number of frames to append. The frames of a smaller count are the first ones of a larger one.
        crop: Part of each frame that is kept.

    Returns:
        `samples` and the frames, as data set `rendered`; file names state seed and frame, no such file exists.
    """
    height, width = samples.masks.shape[1:]
    rgb = np.empty((count, height, width, 3), np.uint8)
    masks = np.empty((count, height, width), np.uint8)
    pairs = []
    for number in range(count):
        place, step = divmod(number, FRAMES_PER_SEED)
        clip = SyntheticClip(seed=FIRST_SEED + place, seconds=SECONDS, polyps=place % SEEDS_PER_CLEAN_ONE > 0)
        index = int(np.random.default_rng([clip.seed, step]).integers(clip.frame_count))
        frame = frame_at(clip, index)
        part = crop_of(frame.rgb, crop)
        rgb[number] = cv2.resize(part.of(frame.rgb), (width, height), interpolation=cv2.INTER_AREA)
        coverage = cv2.resize(part.of(frame.mask).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        masks[number] = coverage >= 0.5
        name = Path(f"{clip.seed}-{index:05d}.png")
        pairs.append(Pair(dataset="rendered", image=name, mask=name))
    return Samples(
        pairs=(*samples.pairs, *pairs),
        rgb=np.concatenate([samples.rgb, rgb]),
        masks=np.concatenate([samples.masks, masks]),
    )
