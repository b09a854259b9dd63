"""U-Net, a baseline: 1,946,993 parameters at the default widths.

Source: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
The paper has 64 to 1024 channels, no normalization and no padding; this version has the widths of ResUNet++, as in the
ResUNet++ paper, batch normalization after every 3×3 convolution, and 'same' padding. As in the paper: two convolutions
per stage, maximum pooling, and learned 2×2 upsampling to the width of the stage. The input is RGB.
"""

from collections.abc import Sequence

import keras
from keras import KerasTensor, layers

from polypstream.train.networks.blocks import check_widths, conv3x3, image_input, norm_relu, probability_head

WIDTHS = (16, 32, 64, 128, 256)
MULTIPLE = 16
"""Both sides of the input must be multiples of this."""

SUPERVISED_LAYERS = tuple(f"{part}_norm2_relu" for part in ("bridge", "decoder4", "decoder3", "decoder2", "decoder1"))
"""Layers for auxiliary heads during training, coarsest first: from 1/16 of the input to 1/1."""


def unet(*, height: int | None = 352, width: int | None = 352, widths: Sequence[int] = WIDTHS) -> keras.Model:
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
    x = image = image_input(height, width, multiple=MULTIPLE)
    skips = []
    for stage in (1, 2, 3, 4):
        skips.append(double_conv(x, widths[stage - 1], f"encoder{stage}"))
        x = layers.MaxPooling2D(2, name=f"encoder{stage}_pool")(skips[-1])
    x = double_conv(x, widths[4], "bridge")
    for stage in (4, 3, 2, 1):
        x = layers.Conv2DTranspose(widths[stage - 1], 2, strides=2, name=f"decoder{stage}_up")(x)
        x = layers.Concatenate(name=f"decoder{stage}_concat")([x, skips[stage - 1]])
        x = double_conv(x, widths[stage - 1], f"decoder{stage}")
    return keras.Model(image, probability_head(x, "probability"), name="unet")


def double_conv(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """Apply a 3×3 convolution, batch normalization and ReLU, twice."""
    for step in (1, 2):
        x = norm_relu(conv3x3(x, filters, f"{name}_conv{step}"), f"{name}_norm{step}")
    return x
