"""Building blocks of ResUNet++ and its baselines, as plain functions on Keras tensors.

Every tensor is NHWC. Every layer has an explicit name, so that a node of the exported graph can be traced back to
the line that created it. Only `keras` is used, so the code runs on TensorFlow, JAX and PyTorch.

Source: Jha et al., "ResUNet++: An Advanced Architecture for Medical Image Segmentation", IEEE ISM 2019.
"""

from collections.abc import Sequence

import keras
from keras import KerasTensor, layers, ops

ASPP_DILATIONS = (6, 12, 18, 1)
SQUEEZE_RATIO = 8


def norm_relu(x: KerasTensor, name: str) -> KerasTensor:
    """Apply batch normalization, then ReLU: the pre-activation before most convolutions here."""
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def conv3x3(x: KerasTensor, filters: int, name: str, *, stride: int = 1, dilation: int = 1) -> KerasTensor:
    """Apply a 3×3 convolution with bias and 'same' padding."""
    return layers.Conv2D(filters, 3, strides=stride, dilation_rate=dilation, padding="same", name=name)(x)


def squeeze_excite(x: KerasTensor, name: str) -> KerasTensor:
    """Scale each channel by a gate in (0, 1) computed from the channel means.

    The mean is computed row by row: in float32, a single running sum over 352×352 pixels is off by up to 1e-4, which
    the unbounded attention gates that follow amplify.
    """
    channels = x.shape[-1]
    mean = ops.mean(ops.mean(x, axis=2, keepdims=True), axis=1, keepdims=True)
    gate = layers.Dense(channels // SQUEEZE_RATIO, activation="relu", use_bias=False, name=f"{name}_squeeze")(mean)
    gate = layers.Dense(channels, activation="sigmoid", use_bias=False, name=f"{name}_excite")(gate)
    return layers.Multiply(name=name)([x, gate])


def projection(x: KerasTensor, filters: int, name: str, *, stride: int = 1) -> KerasTensor:
    """Apply the shortcut of a residual block: 1×1 convolution, then batch normalization."""
    x = layers.Conv2D(filters, 1, strides=stride, padding="same", name=f"{name}_conv")(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def residual_stem(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """Apply the first residual unit, at stride 1; unlike the others it does not normalize its input."""
    y = conv3x3(x, filters, f"{name}_conv1")
    y = conv3x3(norm_relu(y, f"{name}_norm"), filters, f"{name}_conv2")
    return layers.Add(name=f"{name}_add")([y, projection(x, filters, f"{name}_shortcut")])


def residual_unit(x: KerasTensor, filters: int, name: str, *, stride: int = 1) -> KerasTensor:
    """Apply two pre-activated 3×3 convolutions and a projected shortcut; the last layer is named `name`_add."""
    y = conv3x3(norm_relu(x, f"{name}_norm1"), filters, f"{name}_conv1", stride=stride)
    y = conv3x3(norm_relu(y, f"{name}_norm2"), filters, f"{name}_conv2")
    return layers.Add(name=f"{name}_add")([y, projection(x, filters, f"{name}_shortcut", stride=stride)])


def stem(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """Apply the first residual unit, then squeeze-and-excitation."""
    return squeeze_excite(residual_stem(x, filters, name), name)


def residual_block(x: KerasTensor, filters: int, name: str, *, stride: int = 1) -> KerasTensor:
    """Apply a residual unit, then squeeze-and-excitation."""
    return squeeze_excite(residual_unit(x, filters, name, stride=stride), name)


def aspp(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """Apply atrous spatial pyramid pooling: four dilated branches, summed, then a 1×1 convolution."""
    branches = []
    for dilation in ASPP_DILATIONS:
        y = conv3x3(x, filters, f"{name}_dilation{dilation}_conv", dilation=dilation)
        branches.append(layers.BatchNormalization(name=f"{name}_dilation{dilation}_bn")(y))
    y = layers.Add(name=f"{name}_add")(branches)
    return layers.Conv2D(filters, 1, padding="same", name=name)(y)


def attention_gate(skip: KerasTensor, x: KerasTensor, name: str) -> KerasTensor:
    """Weight the decoder's `x` by a map computed from it and from the skip connection at twice its size.

    The gate has no sigmoid: its values are unbounded, which a half-precision export must take into account.
    """
    channels = x.shape[-1]
    from_skip = conv3x3(norm_relu(skip, f"{name}_skip_norm"), channels, f"{name}_skip_conv")
    from_skip = layers.MaxPooling2D(2, name=f"{name}_skip_pool")(from_skip)
    from_x = conv3x3(norm_relu(x, f"{name}_x_norm"), channels, f"{name}_x_conv")
    gate = layers.Add(name=f"{name}_add")([from_skip, from_x])
    gate = conv3x3(norm_relu(gate, f"{name}_gate_norm"), channels, f"{name}_gate_conv")
    return layers.Multiply(name=name)([gate, x])


def probability_head(x: KerasTensor, name: str) -> KerasTensor:
    """Apply a 1×1 convolution to one channel and a sigmoid, computed in float32 under every precision policy."""
    x = layers.Conv2D(1, 1, padding="same", name=f"{name}_logit")(x)
    return layers.Activation("sigmoid", dtype="float32", name=name)(x)


def upsampled_with_skip(x: KerasTensor, skip: KerasTensor, name: str) -> KerasTensor:
    """Apply nearest 2× upsampling, then concatenate with the skip connection."""
    x = layers.UpSampling2D(2, interpolation="nearest", name=f"{name}_up")(x)
    return layers.Concatenate(name=f"{name}_concat")([x, skip])


def image_input(height: int | None, width: int | None, *, multiple: int) -> KerasTensor:
    """Create the network's input: float32 RGB in [0, 1], (batch, height, width, 3); None: variable size."""
    for side in (height, width):
        if side is not None and side % multiple:
            raise ValueError(f"the input is {height}x{width}; both sides must be multiples of {multiple}")
    return keras.Input((height, width, 3), name="image")


def check_widths(widths: Sequence[int]) -> None:
    """Raise `ValueError` unless there are five widths: four encoder stages and the bridge."""
    if len(widths) != 5:
        raise ValueError(f"widths has {len(widths)} values; give five: four encoder stages and the bridge")
