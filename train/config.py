"""The settings of one training run: everything that decides its outcome besides the data."""

import math
from dataclasses import dataclass, field
from typing import get_args

from polypstream.content import CropRule
from polypstream.errors import ConfigError
from polypstream.train.augment import Augmentation
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.recipe import LOSSES

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Checked on construction: raises `ConfigError`."""

    model: str = "resunetpp"
    """A name among `NETWORKS`."""
    height: int = 352
    width: int = 352
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels of the four encoder stages and the bridge."""
    epochs: int = 100
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup_share: float = 0.1
    """Fraction of all steps over which the learning rate rises, before it falls along a cosine to zero."""
    weight_decay: float = 1e-4
    average_momentum: float = 0.998
    """Momentum of the running average of the weights; the average is validated and saved."""
    precision: str = "mixed_bfloat16"
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    clean_share: float = 0.0
    """Images without a polyp are repeated until they make up this fraction of an epoch; 0 never repeats them."""
    rendered: int = 0
    """Number of frames of the synthetic colonoscopy among the training images."""
    crop: CropRule = "none"
    """Part of each image used for training and validation: all, or the bounding box of the endoscope image."""
    loss: str = "bce-dice"
    """A name among `LOSSES`."""
    frozen_stages: int = 0
    """Number of encoder stages, stem included, whose weights and statistics are frozen."""
    minutes: float | None = None
    """Time limit in minutes, which may end the run within an epoch; the learning rate then follows elapsed time."""

    def __post_init__(self) -> None:
        if self.model not in NETWORKS:
            raise ConfigError(f"the model is {self.model!r}; choose from {', '.join(NETWORKS)}")
        multiple = NETWORKS[self.model].multiple
        if min(self.height, self.width) < multiple or self.height % multiple or self.width % multiple:
            raise ConfigError(
                f"the size is {self.width}x{self.height}; {self.model} takes sides that are multiples of {multiple}"
            )
        if len(self.widths) != 5 or min(self.widths) < 8:
            raise ConfigError(f"the widths are {self.widths}; give five numbers of at least 8")
        if min(self.epochs, self.batch_size) < 1:
            raise ConfigError(f"epochs is {self.epochs} and batch size {self.batch_size}; both must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"the learning rate is {self.learning_rate}; it must be between 0 and 1")
        if not 0 <= self.warmup_share < 1:
            raise ConfigError(f"the warm-up share is {self.warmup_share}; it must be at least 0 and below 1")
        if not 0 <= self.weight_decay < 1:
            raise ConfigError(f"the weight decay is {self.weight_decay}; it must be at least 0 and below 1")
        if not 0 <= self.average_momentum < 1:
            raise ConfigError(f"the average's momentum is {self.average_momentum}; it must be at least 0 and below 1")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"the precision is {self.precision!r}; choose from {', '.join(PRECISIONS)}")
        if not 0 <= self.clean_share < 1:
            raise ConfigError(f"the clean share is {self.clean_share}; it must be at least 0 and below 1")
        if self.frozen_stages < 0 or (self.frozen_stages and NETWORKS[self.model].encoder is None):
            raise ConfigError(
                f"{self.frozen_stages} stages of {self.model} cannot be frozen; leave --frozen-stages out"
            )
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ConfigError(f"the minutes are {self.minutes}; give a positive number")
        if self.crop not in get_args(CropRule):
            raise ConfigError(f"the crop is {self.crop!r}; choose from {', '.join(get_args(CropRule))}")
        if self.loss not in LOSSES:
            raise ConfigError(f"the loss is {self.loss!r}; choose from {', '.join(LOSSES)}")
        if self.rendered < 0:
            raise ConfigError(f"the number of rendered frames is {self.rendered}; it must not be negative")
        if self.seed < 0:
            raise ConfigError(f"the seed is {self.seed}; it must not be negative")
