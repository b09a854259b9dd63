"""Batches for training: shuffled, augmented, and the same for the same seed and epoch."""

import math

import keras
import numpy as np
from numpy.typing import NDArray

from polypstream.train.augment import Augmentation, augmented
from polypstream.train.data import Samples

Batch = tuple[NDArray[np.float32], list[NDArray[np.float32]]]


class TrainingBatches(keras.utils.PyDataset):
    """Augmented batches: images float32 RGB in [0, 1], (n, H, W, 3); masks float32 0 or 1, (n, H, W, 1), per output.

    What an epoch holds depends on `seed`, `epoch` and the position alone, never on which worker made it or on what
    ran before: a resumed training sees what the unbroken one would have seen.
    """

    def __init__(
        self, samples: Samples, *, batch_size: int, outputs: int, augmentation: Augmentation, seed: int, workers: int
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=8)
        self._samples, self._batch_size, self._outputs = samples, batch_size, outputs
        self._augmentation, self._seed = augmentation, seed
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Shuffle for the given epoch, counted from 0."""
        self._epoch = epoch
        self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._samples))

    def __len__(self) -> int:
        return math.ceil(len(self._samples) / self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        images, masks = [], []
        for sample in chosen:
            rng = np.random.default_rng((self._seed, self._epoch, int(sample)))
            rgb, mask = augmented(self._samples.rgb[sample], self._samples.masks[sample], self._augmentation, rng)
            images.append(rgb)
            masks.append(mask)
        truth = np.stack(masks).astype(np.float32)[..., None]
        return np.stack(images).astype(np.float32) / 255, [truth] * self._outputs
