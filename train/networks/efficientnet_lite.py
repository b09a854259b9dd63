"""EfficientNet-Lite encoder: inverted bottlenecks without squeeze-and-excitation, at five scales.

Source of the layout: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
and its variant "Lite" for integer arithmetic: ReLU6 in place of swish, no squeeze-and-excitation, the first convolution
and the first and last stage have the same size in all variants.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from keras import KerasTensor, layers

Variant = Literal["lite0", "lite1", "lite2"]

STEM_FILTERS = 32
SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Width and depth multipliers of each variant."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Blocks with the same number of output channels; only the first is strided."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    filters: int


STAGES = (
    Stage(blocks=1, kernel=3, stride=1, expansion=1, filters=16),
    Stage(blocks=2, kernel=3, stride=2, expansion=6, filters=24),
    Stage(blocks=2, kernel=5, stride=2, expansion=6, filters=40),
    Stage(blocks=3, kernel=3, stride=2, expansion=6, filters=80),
    Stage(blocks=3, kernel=5, stride=1, expansion=6, filters=112),
    Stage(blocks=4, kernel=5, stride=2, expansion=6, filters=192),
    Stage(blocks=1, kernel=3, stride=1, expansion=6, filters=320),
)
"""Stages of the variant "lite0"."""
SKIPS = (2, 3, 5, 7)
"""The last stage, counted from 1, at each of 1/4, 1/8, 1/16 and 1/32 of the image size."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One inverted bottleneck: 1×1 expansion, depthwise convolution, 1×1 projection."""

    name: str
    stage: int
    """Counted from 1."""
    kernel: int
    stride: int
    expansion: int
    filters: int


def blocks(variant: Variant, name: str) -> Iterator[Block]:
    """The blocks of a variant in order; the names of their layers begin with `name`."""
    width, depth = SCALES[variant]
    for number, stage in enumerate(STAGES, 1):
        count = stage.blocks if number in (1, len(STAGES)) else math.ceil(stage.blocks * depth)
        for index in range(1, count + 1):
            yield Block(
                name=f"{name}{number}_block{index}",
                stage=number,
                kernel=stage.kernel,
                stride=stage.stride if index == 1 else 1,
                expansion=stage.expansion,
                filters=_scaled(stage.filters, width),
            )


def efficientnet_lite(
    image: KerasTensor, variant: Variant, name: str
) -> tuple[KerasTensor, KerasTensor, KerasTensor, KerasTensor]:
    """Apply the encoder; returns the outputs at 1/4, 1/8, 1/16 and 1/32 (24, 40, 112 and 320 channels in "lite0").

    `image` is float32 RGB in [0, 1], (batch, height, width, 3), both sides multiples of 32.
    """
    x = layers.Rescaling(255 / 128, offset=-127 / 128, name=f"{name}_scaled")(image)
    x = layers.Conv2D(STEM_FILTERS, 3, strides=2, padding="same", use_bias=False, name=f"{name}_stem")(x)
    x = _norm_relu6(x, f"{name}_stem")
    ends = {}
    for block in blocks(variant, name):
        x = _inverted_bottleneck(x, block)
        ends[block.stage] = x
    first, second, third, last = (ends[stage] for stage in SKIPS)
    return first, second, third, last


def _inverted_bottleneck(x: KerasTensor, block: Block) -> KerasTensor:
    y = x
    if block.expansion != 1:
        y = layers.Conv2D(block.expansion * x.shape[-1], 1, use_bias=False, name=f"{block.name}_expand")(y)
        y = _norm_relu6(y, f"{block.name}_expand")
    y = layers.DepthwiseConv2D(
        block.kernel, strides=block.stride, padding="same", use_bias=False, name=f"{block.name}_depthwise"
    )(y)
    y = _norm_relu6(y, f"{block.name}_depthwise")
    y = layers.Conv2D(block.filters, 1, use_bias=False, name=f"{block.name}_project")(y)
    y = layers.BatchNormalization(name=f"{block.name}_project_bn")(y)
    if block.stride == 1 and x.shape[-1] == block.filters:
        y = layers.Add(name=f"{block.name}_add")([y, x])
    return y


def _norm_relu6(x: KerasTensor, name: str) -> KerasTensor:
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x)


def _scaled(filters: int, width: float) -> int:
    """Scale by `width` and round to a multiple of 8, by at most a tenth down."""
    wanted = filters * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8
