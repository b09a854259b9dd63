"""Registry of the networks that can be trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import keras

from polypstream.train.networks import resunet, resunetpp, resunetpp_lite, resunetpp_r50, unet
from polypstream.train.networks.efficientnet_lite import Variant


class Build(Protocol):
    """A function that builds a network.

    The network maps float32 RGB in [0, 1], (batch, height, width, 3), to the probability of polyp, float32
    (batch, height, width, 1).
    """

    def __call__(self, *, height: int | None, width: int | None, widths: Sequence[int]) -> keras.Model:
        """Build the network; `widths`: channels of four encoder stages and the bridge; None: a variable side."""
        ...


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network with the properties that training needs."""

    build: Build
    supervised_layers: tuple[str, ...]
    """Layers to which auxiliary heads can be attached, coarsest first."""
    multiple: int
    """Both sides of the input must be multiples of this."""
    widths: tuple[int, ...] = resunetpp.WIDTHS
    """Channels of the published or trained version."""
    encoder: str | None = None
    """Prefix of the encoder's layer names, if the encoder can be initialized from published weights."""
    pretrained: Variant | None = None
    """Variant whose ImageNet weights initialize the encoder, if an installed package provides them."""


def _lite(variant: Variant) -> Architecture:
    return Architecture(
        build=partial(resunetpp_lite.resunetpp_lite, variant=variant),
        supervised_layers=resunetpp_lite.SUPERVISED_LAYERS,
        multiple=resunetpp_lite.MULTIPLE,
        widths=resunetpp_lite.WIDTHS,
        encoder=resunetpp_lite.ENCODER,
        pretrained=variant,
    )


NETWORKS = {
    "unet": Architecture(build=unet.unet, supervised_layers=unet.SUPERVISED_LAYERS, multiple=unet.MULTIPLE),
    "resunet": Architecture(
        build=resunet.resunet, supervised_layers=resunet.SUPERVISED_LAYERS, multiple=resunet.MULTIPLE
    ),
    "resunetpp": Architecture(
        build=resunetpp.resunetpp, supervised_layers=resunetpp.SUPERVISED_LAYERS, multiple=resunetpp.MULTIPLE
    ),
    "resunetpp-r50": Architecture(
        build=resunetpp_r50.resunetpp_r50,
        supervised_layers=resunetpp_r50.SUPERVISED_LAYERS,
        multiple=resunetpp_r50.MULTIPLE,
        widths=resunetpp_r50.WIDTHS,
        encoder=resunetpp_r50.ENCODER,
    ),
    "resunetpp-lite0": _lite("lite0"),
    "resunetpp-lite1": _lite("lite1"),
    "resunetpp-lite2": _lite("lite2"),
}
"""Networks by the name used in `polypstream train --model`."""
