"""Batch normalisation through PyTorch's own fused kernel, for training on that backend.

Keras composes the layer from primitive operations, which on a CPU costs more time than all the convolutions together.
The arithmetic is the same; only the layer class differs, so weights move freely between the two.
"""

import keras
from keras import KerasTensor, layers


class FusedBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Keras' layer for (batch, H, W, C), computed by `torch.nn.functional.batch_norm`.

    As in PyTorch, the moving variance takes the unbiased variance of the batch, Keras' own the biased one: a factor
    n/(n−1) with n in the thousands.
    """

    def call(self, inputs: KerasTensor, training: bool | None = None, mask: KerasTensor | None = None) -> KerasTensor:
        """Normalise; while training, the moving statistics are updated in place."""
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


def fused(network: keras.Model) -> keras.Model:
    """Clone a functional model with every batch normalisation fused, and the same weights.

    On another backend than PyTorch the model itself is returned.
    """
    if keras.backend.backend() != "torch":
        return network

    def fuse(layer: layers.Layer) -> layers.Layer:
        if type(layer) is layers.BatchNormalization:
            return FusedBatchNormalization.from_config(layer.get_config())
        return layer.__class__.from_config(layer.get_config())

    clone = keras.models.clone_model(network, clone_function=fuse)
    clone.set_weights(network.get_weights())
    return clone
