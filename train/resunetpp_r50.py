"""A named variant of ResUNet++: its bridge, gates, decoder and head on an encoder that need not start from nothing.

What differs from `resunetpp`: the encoder is a ResNet-50 of half the width, which reaches 1/32 of the picture; each
skip is brought to its decoder's width by a 1×1 convolution; the decoder ends at a quarter of the picture, where the
head decides, and its logits are scaled up bilinearly.
"""

from collections.abc import Sequence

import keras
from keras import layers

from polypstream.train.blocks import aspp, check_widths, image_input, projection
from polypstream.train.resnet import resnet50_thin
from polypstream.train.resunetpp import decoder_stage

WIDTHS = (16, 32, 64, 128, 128)
"""Of the head, of the decoder's stages at 1/4, 1/8 and 1/16, and of the bridge."""
MULTIPLE = 32
"""Both sides of the input are multiples of this."""
SUPERVISED_LAYERS = ("bridge", "decoder3", "decoder2", "decoder1")
"""Where training may attach auxiliary heads, coarsest first: at 1/32, 1/16, 1/8 and 1/4 of the input."""
ENCODER = "encoder"
"""The names of the encoder's layers begin with this."""


def resunetpp_r50(*, height: int | None = 352, width: int | None = 352, widths: Sequence[int] = WIDTHS) -> keras.Model:
    """Build the network.

    Input: float32 RGB in [0, 1], (batch, height, width, 3), both sides multiples of 32, or None for any such size.
    Output: float32 probability of polyp, (batch, height, width, 1).
    """
    check_widths(widths)
    image = image_input(height, width, multiple=MULTIPLE)
    skip1, skip2, skip3, bottom = resnet50_thin(image, ENCODER)
    x = aspp(projection(bottom, widths[4], "bottom"), widths[4], "bridge")
    x = decoder_stage(projection(skip3, widths[3], "skip3"), x, widths[3], "decoder3")
    x = decoder_stage(projection(skip2, widths[2], "skip2"), x, widths[2], "decoder2")
    x = decoder_stage(projection(skip1, widths[1], "skip1"), x, widths[1], "decoder1")
    x = aspp(x, widths[0], "head")
    x = layers.Conv2D(1, 1, padding="same", name="probability_logit")(x)
    x = layers.UpSampling2D(4, interpolation="bilinear", dtype="float32", name="probability_up")(x)
    x = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(image, x, name="resunetpp_r50")
