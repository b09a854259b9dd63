"""Deep residual U-Net, a baseline: 2,081,937 parameters at the default widths.

Source: Zhang, Liu and Wang, "Road Extraction by Deep Residual U-Net", IEEE GRSL 2018. The paper has three encoder
stages of 64 to 256 channels and a bridge of 512; this version has four stages and a bridge, with the widths of
ResUNet++, which the ResUNet++ paper also uses for its baselines. As in the paper: pre-activated residual units, strides
instead of pooling, projected shortcuts, nearest upsampling, and no normalization before the output. The input is RGB.
"""

from collections.abc import Sequence

import keras

from polypstream.train.networks.blocks import (
    check_widths,
    image_input,
    probability_head,
    residual_stem,
    residual_unit,
    upsampled_with_skip,
)

WIDTHS = (16, 32, 64, 128, 256)
MULTIPLE = 16
"""Both sides of the input must be multiples of this."""

SUPERVISED_LAYERS = ("bridge_add", "decoder4_add", "decoder3_add", "decoder2_add", "decoder1_add")
"""Layers for auxiliary heads during training, coarsest first: from 1/16 of the input to 1/1."""


def resunet(*, height: int | None = 352, width: int | None = 352, widths: Sequence[int] = WIDTHS) -> keras.Model:
    """Build the network.

    Args:
        height: Height of the input in pixels, a multiple of 16; None: variable.
        width: Width of the input in pixels, a multiple of 16; None: variable.
        widths: Channels of the four encoder stages and the bridge.

    Returns:
        Model from float32 RGB in [0, 1], (batch, height, width, 3), to the probability of polyp, float32
        (batch, height, width, 1).

    Raises:
        ValueError: A side is not a multiple of 16, or there are not five widths.
    """
    check_widths(widths)
    image = image_input(height, width, multiple=MULTIPLE)
    skips = [residual_stem(image, widths[0], "encoder1")]
    for stage in (2, 3, 4):
        skips.append(residual_unit(skips[-1], widths[stage - 1], f"encoder{stage}", stride=2))
    x = residual_unit(skips[-1], widths[4], "bridge", stride=2)
    for stage in (4, 3, 2, 1):
        x = upsampled_with_skip(x, skips[stage - 1], f"decoder{stage}")
        x = residual_unit(x, widths[stage - 1], f"decoder{stage}")
    return keras.Model(image, probability_head(x, "probability"), name="resunet")
