"""ResUNet++ as published: 4,070,385 parameters at the default widths.

Source: Jha et al., "ResUNet++: An Advanced Architecture for Medical Image Segmentation", IEEE ISM 2019. Where
implementations differ, this one sums the ASPP branches, uses a squeeze ratio of 8 in encoder and decoder, a gate with
as many channels as the decoder, nearest upsampling and 1×1 shortcuts. The input is RGB.
"""

from collections.abc import Sequence

import keras
from keras import KerasTensor

from polypstream.train.networks.blocks import (
    aspp,
    attention_gate,
    check_widths,
    image_input,
    probability_head,
    residual_block,
    stem,
    upsampled_with_skip,
)

WIDTHS = (16, 32, 64, 128, 256)
MULTIPLE = 8
"""Both sides of the input must be multiples of this."""
SUPERVISED_LAYERS = ("bridge", "decoder3", "decoder2", "decoder1")
"""Layers for auxiliary heads during training, coarsest first: at 1/8, 1/4, 1/2 and 1/1 of the input."""


def resunetpp(*, height: int | None = 352, width: int | None = 352, widths: Sequence[int] = WIDTHS) -> keras.Model:
    """Build the network.

    Args:
        height: Height of the input in pixels, a multiple of 8; None: variable.
        width: Width of the input in pixels, a multiple of 8; None: variable.
        widths: Channels of the four encoder stages and the bridge.

    Returns:
        Model from float32 RGB in [0, 1], (batch, height, width, 3), to the probability of polyp, float32
        (batch, height, width, 1).

    Raises:
        ValueError: A side is not a multiple of 8, or there are not five widths.
    """
    check_widths(widths)
    image = image_input(height, width, multiple=MULTIPLE)
    skip1 = stem(image, widths[0], "encoder1")
    skip2 = residual_block(skip1, widths[1], "encoder2", stride=2)
    skip3 = residual_block(skip2, widths[2], "encoder3", stride=2)
    bottom = residual_block(skip3, widths[3], "encoder4", stride=2)
    x = aspp(bottom, widths[4], "bridge")
    x = decoder_stage(skip3, x, widths[3], "decoder3")
    x = decoder_stage(skip2, x, widths[2], "decoder2")
    x = decoder_stage(skip1, x, widths[1], "decoder1")
    x = aspp(x, widths[0], "head")
    return keras.Model(image, probability_head(x, "probability"), name="resunetpp")


def decoder_stage(skip: KerasTensor, x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """Apply attention, nearest 2× upsampling, concatenation with the skip connection, and a residual block."""
    x = attention_gate(skip, x, f"{name}_attention")
    return residual_block(upsampled_with_skip(x, skip, name), filters, name)
