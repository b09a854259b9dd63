"""Training batches: shuffled, augmented, prefetched, and reproducible from seed and epoch."""

import math
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from polypstream.train.augment import Augmentation, augment
from polypstream.train.data import Samples

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Images float32 RGB in [0, 1], (n, H, W, 3), and masks float32 0 or 1, (n, H, W, 1)."""


@dataclass(frozen=True, kw_only=True)
class BatchSource:
    """Makes any batch of any epoch on demand. The last batch of an epoch is filled with its first samples.

    A batch depends on the seed, the epoch and its position only, not on the worker that made it or on earlier
    batches: a resumed training sees the same batches as an uninterrupted one.
    """

    samples: Samples
    batch_size: int
    augmentation: Augmentation
    seed: int
    clean_share: float = 0.0
    """Images without a polyp are repeated until they make up this fraction of an epoch; 0 never repeats them."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return math.ceil(len(self._epoch) / self.batch_size)

    @cached_property
    def _epoch(self) -> NDArray[np.intp]:
        """Indices of the samples in an epoch, unordered."""
        has_polyp = self.samples.masks.any(axis=(1, 2))
        polyps, clean = np.flatnonzero(has_polyp), np.flatnonzero(~has_polyp)
        if not len(clean):
            return polyps
        wanted = round(len(polyps) * self.clean_share / (1 - self.clean_share))
        return np.concatenate([polyps, np.resize(clean, max(wanted, len(clean)))])

    def batch(self, epoch: int, index: int) -> Batch:
        """The batch at `index` of `epoch`, both counted from 0."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self._epoch)
        images, masks = [], []
        for position in range(index * self.batch_size, (index + 1) * self.batch_size):
            sample = order[position % len(order)]
            rng = np.random.default_rng((self.seed, epoch, position))
            other = self.samples.rgb[rng.integers(len(self.samples))]
            rgb, mask = augment(
                self.samples.rgb[sample], self.samples.masks[sample], self.augmentation, rng, other=other
            )
            images.append(rgb)
            masks.append(mask)
        return np.stack(images).astype(np.float32) / np.float32(255), np.stack(masks).astype(np.float32)[..., None]


def batches_ahead(
    source: BatchSource, *, first_epoch: int, epochs: int, workers: int, ahead: int = 8
) -> Generator[Batch, None, None]:
    """Iterate over all batches from `first_epoch` up to `epochs`, in order, prepared ahead by worker threads.

    Close the iterator (`contextlib.closing`) when leaving early: that ends the worker threads. An exception in a
    worker is raised here.

    Args:
        source: Makes the batches.
        first_epoch: First epoch, counted from 0.
        epochs: Number of epochs in the run; the last batch belongs to epoch `epochs` − 1.
        workers: Number of threads.
        ahead: Maximum number of batches prepared in advance.

    Yields:
        Images float32 (n, H, W, 3) in [0, 1] and masks float32 (n, H, W, 1).
    """
    positions = ((epoch, index) for epoch in range(first_epoch, epochs) for index in range(source.steps))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    waiting: deque[Future[Batch]] = deque()
    try:
        for epoch, index in positions:
            waiting.append(pool.submit(source.batch, epoch, index))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
