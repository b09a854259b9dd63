"""Named variants of ResUNet++: its bridge, gates, decoder and head on an EfficientNet-Lite encoder.

Differences from `resunetpp`: the encoder reaches 1/32 of the image and can be initialized from published weights; a
1×1 convolution adapts each skip connection to the decoder's width; the decoder and its head end at a quarter of the
image size, and the logits are upsampled bilinearly.
"""

from collections.abc import Sequence

import keras
from keras import layers

from polypstream.train.networks.blocks import aspp, check_widths, image_input, projection
from polypstream.train.networks.efficientnet_lite import Variant, efficientnet_lite
from polypstream.train.networks.resunetpp import decoder_stage

WIDTHS = (16, 32, 64, 96, 128)
"""Channels of the head, of the decoder's stages at 1/4, 1/8 and 1/16, and of the bridge."""
MULTIPLE = 32
"""Both sides of the input must be multiples of this."""
SUPERVISED_LAYERS = ("bridge", "decoder3", "decoder2", "decoder1")
"""Layers for auxiliary heads during training, coarsest first: at 1/32, 1/16, 1/8 and 1/4 of the input."""
ENCODER = "encoder"
"""Prefix of the encoder's layer names."""


def resunetpp_lite(
    *, variant: Variant, height: int | None = 352, width: int | None = 352, widths: Sequence[int] = WIDTHS
) -> keras.Model:
    """Build the network.

    Input: float32 RGB in [0, 1], (batch, height, width, 3), both sides multiples of 32, or None for any such size.
    Output: float32 probability of polyp, (batch, height, width, 1).
    """
    check_widths(widths)
    image = image_input(height, width, multiple=MULTIPLE)
    skip1, skip2, skip3, bottom = efficientnet_lite(image, variant, ENCODER)
    x = aspp(projection(bottom, widths[4], "bottom"), widths[4], "bridge")
    x = decoder_stage(projection(skip3, widths[3], "skip3"), x, widths[3], "decoder3")
    x = decoder_stage(projection(skip2, widths[2], "skip2"), x, widths[2], "decoder2")
    x = decoder_stage(projection(skip1, widths[1], "skip1"), x, widths[1], "decoder1")
    x = aspp(x, widths[0], "head")
    x = layers.Conv2D(1, 1, padding="same", name="probability_logit")(x)
    x = layers.UpSampling2D(4, interpolation="bilinear", dtype="float32", name="probability_up")(x)
    x = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(image, x, name=f"resunetpp_{variant}")
