"""A ResNet-50 of half the width, as an encoder whose weights other pictures have already taught.

Source of the layout: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with all widths halved but
the first, as in Yahoo's open_nsfw ("thin" ResNet-50): convolution, normalisation, ReLU; strides sit in the first 1×1.
"""

from keras import KerasTensor, layers

STAGES = ((3, 32), (4, 64), (6, 128), (3, 256))
"""Blocks and inner channels of each stage; a stage puts out four times its inner channels, at 1/4 to 1/32."""


def resnet50_thin(image: KerasTensor, name: str) -> tuple[KerasTensor, KerasTensor, KerasTensor, KerasTensor]:
    """The four stages' outputs, 128, 256, 512 and 1024 channels, at 1/4, 1/8, 1/16 and 1/32 of `image`'s sides.

    `image` is float32 RGB in [0, 1], (batch, height, width, 3).
    """
    x = layers.ZeroPadding2D(3, name=f"{name}_pad")(image)
    x = _normalised(x, 64, f"{name}_stem", kernel=7, stride=2, padding="valid")
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
    y = layers.ReLU(name=f"{name}_relu1")(_normalised(x, inner, f"{name}_conv1", kernel=1, stride=stride))
    y = layers.ReLU(name=f"{name}_relu2")(_normalised(y, inner, f"{name}_conv2", kernel=3))
    y = _normalised(y, 4 * inner, f"{name}_conv3", kernel=1)
    shortcut = _normalised(x, 4 * inner, f"{name}_shortcut", kernel=1, stride=stride) if projected else x
    return layers.ReLU(name=f"{name}_relu3")(layers.Add(name=f"{name}_add")([y, shortcut]))


def _normalised(
    x: KerasTensor, filters: int, name: str, *, kernel: int, stride: int = 1, padding: str = "same"
) -> KerasTensor:
    """A convolution without bias and the normalisation that follows it."""
    x = layers.Conv2D(filters, kernel, strides=stride, padding=padding, use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def convolution_names(name: str) -> list[str]:
    """Of the encoder that `resnet50_thin` names so, in the order in which published files hold them."""
    names = [f"{name}_stem"]
    for stage, (blocks, _) in enumerate(STAGES, 1):
        for block in range(1, blocks + 1):
            parts = ("shortcut", "conv1", "conv2", "conv3") if block == 1 else ("conv1", "conv2", "conv3")
            names += [f"{name}{stage}_block{block}_{part}" for part in parts]
    return names
