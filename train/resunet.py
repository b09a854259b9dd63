"""The deep residual U-Net, a baseline: 2,081,937 parameters at the default widths.

Source: Zhang, Liu and Wang, "Road Extraction by Deep Residual U-Net", IEEE GRSL 2018. Theirs has three encoder stages
of 64 to 256 channels and a bridge of 512; this one has four and a bridge, at the widths of ResUNet++, which are those
that the study of ResUNet++ gives its baselines. As there: pre-activated residual units, a stride in place of pooling,
projected shortcuts, nearest upsampling, and no normalisation before the output. It takes RGB.
"""

from collections.abc import Sequence

import keras

from polypstream.train.blocks import (
    check_widths,
    image_input,
    probability_head,
    residual_stem,
    residual_unit,
    upsampled_with_skip,
)

WIDTHS = (16, 32, 64, 128, 256)
MULTIPLE = 16
"""Both sides of the input are multiples of this."""

SUPERVISED_LAYERS = ("bridge_add", "decoder4_add", "decoder3_add", "decoder2_add", "decoder1_add")
"""Where training may attach auxiliary heads, coarsest first: from 1/16 of the input to 1/1."""


def resunet(*, height: int | None = 352, width: int | None = 352, widths: Sequence[int] = WIDTHS) -> keras.Model:
    """Build the network.

    Input: float32 RGB in [0, 1], (batch, height, width, 3), both sides multiples of 16, or None for any such size.
    Output: float32 probability of polyp, (batch, height, width, 1).
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
