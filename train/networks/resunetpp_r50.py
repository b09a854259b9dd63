"""Variant of ResUNet++ with a ResNet-50 encoder, which can be initialized from published weights.

Differences from `resunetpp`: the encoder is a ResNet-50 of half the width, down to 1/32 of the image; a 1×1
convolution adapts each skip connection to the decoder's width; the decoder and its head end at a quarter of the image
size, and the logits are upsampled bilinearly.
"""

from collections.abc import Sequence

import keras
from keras import KerasTensor, layers

from polypstream.train.networks.blocks import aspp, check_widths, image_input, projection
from polypstream.train.networks.resunetpp import decoder_stage

WIDTHS = (16, 32, 64, 128, 128)
"""Channels of the head, of the decoder's stages at 1/4, 1/8 and 1/16, and of the bridge."""
MULTIPLE = 32
"""Both sides of the input must be multiples of this."""
SUPERVISED_LAYERS = ("bridge", "decoder3", "decoder2", "decoder1")
"""Layers for auxiliary heads during training, coarsest first: at 1/32, 1/16, 1/8 and 1/4 of the input."""
ENCODER = "encoder"
"""Prefix of the encoder's layer names."""


def resunetpp_r50(*, height: int | None = 352, width: int | None = 352, widths: Sequence[int] = WIDTHS) -> keras.Model:
    """Build the network.

    Args:
        height: Height of the input in pixels, a multiple of 32; None: variable.
        width: Width of the input in pixels, a multiple of 32; None: variable.
        widths: Channels of the head, of the decoder's stages at 1/4, 1/8 and 1/16, and of the bridge.

    Returns:
        Model from float32 RGB in [0, 1], (batch, height, width, 3), to the probability of polyp, float32
        (batch, height, width, 1).

    Raises:
        ValueError: A side is not a multiple of 32, or there are not five widths.
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


STAGES = ((3, 32), (4, 64), (6, 128), (3, 256))
"""Blocks and inner channels of each stage; a stage outputs four times its inner channels, at 1/4 to 1/32."""


def resnet50_thin(image: KerasTensor, name: str) -> tuple[KerasTensor, KerasTensor, KerasTensor, KerasTensor]:
    """Apply the encoder to `image`, float32 RGB in [0, 1], (batch, height, width, 3).

    Returns:
        The outputs of the four stages: 128, 256, 512 and 1024 channels at 1/4, 1/8, 1/16 and 1/32 of the image size.
    """
    x = layers.ZeroPadding2D(3, name=f"{name}_pad")(image)
    x = _normalized(x, 64, f"{name}_stem", kernel=7, stride=2, padding="valid")
    x = layers.ReLU(name=f"{name}_stem_relu")(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name=f"{name}_stem_pool")(x)
    outputs = []
    for stage, (blocks, inner) in enumerate(STAGES, 1):
        for block in range(1, blocks + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            x = _bottleneck(x, inner, f"{name}{stage}_block{block}", stride=stride, projected=block == 1)
        outputs.append(x)
    return outputs[0], outputs[1], outputs[2], outputs[3]


def _bottleneck(x: KerasTensor, inner: int, name: str, *, stride: int, projected: bool) -> KerasTensor:
    y = layers.ReLU(name=f"{name}_relu1")(_normalized(x, inner, f"{name}_conv1", kernel=1, stride=stride))
    y = layers.ReLU(name=f"{name}_relu2")(_normalized(y, inner, f"{name}_conv2", kernel=3))
    y = _normalized(y, 4 * inner, f"{name}_conv3", kernel=1)
    shortcut = _normalized(x, 4 * inner, f"{name}_shortcut", kernel=1, stride=stride) if projected else x
    return layers.ReLU(name=f"{name}_relu3")(layers.Add(name=f"{name}_add")([y, shortcut]))


def _normalized(
    x: KerasTensor, filters: int, name: str, *, kernel: int, stride: int = 1, padding: str = "same"
) -> KerasTensor:
    """Apply a convolution without bias, then batch normalization."""
    x = layers.Conv2D(filters, kernel, strides=stride, padding=padding, use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def convolution_names(name: str) -> list[str]:
    """Names of the convolutions of an encoder built by `resnet50_thin` with this name, in published order."""
    names = [f"{name}_stem"]
    for stage, (blocks, _) in enumerate(STAGES, 1):
        for block in range(1, blocks + 1):
            parts = ("shortcut", "conv1", "conv2", "conv3") if block == 1 else ("conv1", "conv2", "conv3")
            names += [f"{name}{stage}_block{block}_{part}" for part in parts]
    return names
