"""U-Net, a baseline: 1,946,993 parameters at the default widths.

Source: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
Theirs has 64 to 1024 channels, no normalisation and no padding; this one has the widths of ResUNet++, as in the study
of ResUNet++, batch normalisation after every 3×3 convolution and 'same' padding. As there: two convolutions a stage,
maximum pooling, and learned 2×2 upsampling that narrows to the stage's width. It takes RGB.
"""

from collections.abc import Sequence

import keras
from keras import KerasTensor, layers

from polypstream.train.blocks import check_widths, conv3x3, image_input, norm_relu, probability_head

WIDTHS = (16, 32, 64, 128, 256)
MULTIPLE = 16
"""Both sides of the input are multiples of this."""

SUPERVISED_LAYERS = tuple(f"{part}_norm2_relu" for part in ("bridge", "decoder4", "decoder3", "decoder2", "decoder1"))
"""Where training may attach auxiliary heads, coarsest first: from 1/16 of the input to 1/1."""


def unet(*, height: int | None = 352, width: int | None = 352, widths: Sequence[int] = WIDTHS) -> keras.Model:
    """Build the network.

    Input: float32 RGB in [0, 1], (batch, height, width, 3), both sides multiples of 16, or None for any such size.
    Output: float32 probability of polyp, (batch, height, width, 1).
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
    """Twice a 3×3 convolution, batch normalisation and ReLU."""
    for step in (1, 2):
        x = norm_relu(conv3x3(x, filters, f"{name}_conv{step}"), f"{name}_norm{step}")
    return x
