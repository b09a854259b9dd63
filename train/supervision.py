"""Deep supervision: auxiliary heads that speed training up and are gone from the exported network."""

from collections.abc import Sequence

import keras
from keras import layers

AUXILIARY_WEIGHT = 0.4
"""Weight of each auxiliary head's loss beside the output's own weight of 1."""


def with_auxiliary_heads(network: keras.Model, layer_names: Sequence[str]) -> keras.Model:
    """A model over the same layers and weights whose further outputs are 1×1 heads on the named layers.

    Its outputs are `[probability, auxiliary…]`, the auxiliary ones at their layer's resolution.
    """
    heads = []
    for name in layer_names:
        logit = layers.Conv2D(1, 1, name=f"auxiliary_{name}_logit")(network.get_layer(name).output)
        heads.append(layers.Activation("sigmoid", dtype="float32", name=f"auxiliary_{name}")(logit))
    return keras.Model(network.input, [network.output, *heads], name=f"{network.name}_supervised")


def loss_weights(layer_names: Sequence[str]) -> list[float]:
    """The weights that belong to the outputs of `with_auxiliary_heads`, in their order."""
    return [1.0] + [AUXILIARY_WEIGHT] * len(layer_names)
