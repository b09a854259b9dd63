"""What makes training on PyTorch faster: its own fused batch normalisation, and its compiler.

Keras composes batch normalisation from primitive operations, which on a CPU costs more time than all the convolutions
together. The arithmetic is the same; only the layer class differs, so weights move freely between the two.
"""

import keras
from keras import KerasTensor, layers

from polypstream.errors import TrainingError


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


def compile_training(model: keras.Model) -> None:
    """Have PyTorch compile a functional model's pass in training, and with it the way back. Once for each shape.

    The first step then takes minutes, each further one about two thirds of the time. Raises `TrainingError` on another
    backend.
    """
    if keras.backend.backend() != "torch":
        raise TrainingError(
            f"Keras runs on {keras.backend.backend()}, and only PyTorch is compiled here; "
            "set KERAS_BACKEND=torch, or leave --compile out"
        )
    import torch

    plain = model.call
    fast = torch.compile(lambda inputs: plain(inputs, training=True), dynamic=False)

    def call(inputs: KerasTensor, training: bool | None = None, mask: KerasTensor | None = None) -> KerasTensor:
        return fast(inputs) if training else plain(inputs, training=training, mask=mask)

    object.__setattr__(model, "call", call)  # past Keras, which would make a layer's attribute of it
