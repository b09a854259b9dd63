"""Faster training on PyTorch: convolutions without copies, fused batch normalization, fast depthwise gradients.

Keras copies the input of every convolution twice, which costs a quarter of a step on a CPU, and composes batch
normalization from primitive operations, which costs more than all the convolutions together. PyTorch's gradient of a
depthwise convolution in bfloat16 takes four times as long as in float32. The arithmetic is the same; only the layer
classes differ, so weights move freely between them.
"""

from functools import cache
from typing import Any

import keras
from keras import KerasTensor, layers


class FusedBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Keras' layer for (batch, H, W, C), computed by `torch.nn.functional.batch_norm`.

    The moving variance uses the unbiased batch variance, as in PyTorch, where Keras uses the biased one; they differ
    by a factor n/(n−1) with n in the thousands.
    """

    def call(self, inputs: KerasTensor, training: bool | None = None, mask: KerasTensor | None = None) -> KerasTensor:
        """Normalize; while training, the moving statistics are updated in place."""
        import torch

        if mask is not None or self.axis not in (-1, 3) or inputs.ndim != 4:
            return super().call(inputs, training=training, mask=mask)
        learn = bool(training) and self.trainable
        out = torch.nn.functional.batch_norm(
            inputs.permute(0, 3, 1, 2),
            self.moving_mean.value,
            self.moving_variance.value,
            self.gamma.value,
            self.beta.value,
            training=learn,
            momentum=1 - self.momentum,
            eps=self.epsilon,
        )
        return out.permute(0, 2, 3, 1)


class FastConv2D(layers.Conv2D):  # type: ignore[misc]
    """Keras' layer for (batch, H, W, C), without the two copies by which Keras changes its layout."""

    def call(self, inputs: KerasTensor) -> KerasTensor:
        """Convolve, add the bias, and apply the activation."""
        import torch

        if self.groups != 1 or self.data_format != "channels_last":
            return super().call(inputs)
        x, padding = _padded(inputs.permute(0, 3, 1, 2), self)
        weight = keras.ops.convert_to_tensor(self.kernel).permute(3, 2, 0, 1)
        bias = keras.ops.convert_to_tensor(self.bias) if self.use_bias else None
        out = torch.nn.functional.conv2d(x, weight, bias, self.strides, padding, self.dilation_rate)
        return self.activation(out.permute(0, 2, 3, 1))


class FastDepthwiseConv2D(layers.DepthwiseConv2D):  # type: ignore[misc]
    """Keras' layer for (batch, H, W, C), whose gradients are computed in float32 under every precision policy."""

    def call(self, inputs: KerasTensor) -> KerasTensor:
        """Filter each channel, without bias or activation."""
        import torch

        plain = self.depth_multiplier == 1 and self.dilation_rate == (1, 1) and self.padding == "same"
        if (
            not plain
            or self.use_bias
            or inputs.dtype != torch.bfloat16
            or self.activation is not keras.activations.linear
        ):
            return super().call(inputs)
        x, padding = _padded(inputs.permute(0, 3, 1, 2), self)
        weight = keras.ops.convert_to_tensor(self.kernel).permute(2, 3, 0, 1)
        return _depthwise().apply(x, weight, self.strides, padding).permute(0, 2, 3, 1)


def _padded(x: Any, layer: layers.Layer) -> tuple[Any, list[int]]:  # noqa: ANN401 - a PyTorch tensor
    """Pad (batch, C, H, W) as the layer does; returns it and the padding that is left to the convolution."""
    import torch

    if layer.padding == "valid":
        return x, [0, 0]
    pads = [
        max(0, (-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side)
        for side, stride, kernel, dilation in zip(
            x.shape[2:], layer.strides, layer.kernel_size, layer.dilation_rate, strict=True
        )
    ]
    if not any(pad % 2 for pad in pads):
        return x, [pad // 2 for pad in pads]
    rows, columns = pads  # Keras pads one more at the end
    edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(x, edges), [0, 0]


@cache
def _depthwise() -> Any:  # noqa: ANN401 - a class that exists only with PyTorch
    import torch

    class Depthwise(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
        """A depthwise convolution of NCHW tensors with a faster gradient than PyTorch's."""

        @staticmethod
        def forward(context: Any, x: Any, weight: Any, strides: Any, padding: Any) -> Any:  # noqa: ANN401
            context.save_for_backward(x, weight)
            context.strides, context.padding = strides, padding
            return torch.nn.functional.conv2d(x, weight, None, strides, padding, groups=x.shape[1])

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:  # noqa: ANN401
            x, weight = context.saved_tensors
            of_x, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient.float(),
                x.float(),
                weight.float(),
                None,
                context.strides,
                context.padding,
                [1, 1],
                False,
                [0, 0],
                x.shape[1],
                [context.needs_input_grad[0], True, False],
            )
            return of_x if of_x is None else of_x.to(x.dtype), of_weight.to(weight.dtype), None, None

    return Depthwise


def with_fast_layers(network: keras.Model) -> keras.Model:
    """Clone a functional model with fused batch normalization, fast depthwise gradients, and the same weights.

    On backends other than PyTorch, the model itself is returned.
    """
    if keras.backend.backend() != "torch":
        return network

    def fuse(layer: layers.Layer) -> layers.Layer:
        if type(layer) is layers.BatchNormalization:
            return FusedBatchNormalization.from_config(layer.get_config())
        if type(layer) is layers.Conv2D:
            return FastConv2D.from_config(layer.get_config())
        if type(layer) is layers.DepthwiseConv2D:
            return FastDepthwiseConv2D.from_config(layer.get_config())
        return layer.__class__.from_config(layer.get_config())

    clone = keras.models.clone_model(network, clone_function=fuse)
    clone.set_weights(network.get_weights())
    return clone
