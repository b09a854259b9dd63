"""The networks that can be trained, under one protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import keras

from polypstream.train import resunet, resunetpp, resunetpp_r50, unet


class Build(Protocol):
    """A function that builds a network.

    From float32 RGB in [0, 1], (batch, height, width, 3), to float32 probability of polyp, (batch, height, width, 1).
    """

    def __call__(self, *, height: int | None, width: int | None, widths: Sequence[int]) -> keras.Model:
        """`widths` are the channels of four encoder stages and the bridge; None leaves a side open."""
        ...


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network, and what training needs to know of it."""

    build: Build
    supervised_layers: tuple[str, ...]
    """Where auxiliary heads are attached, coarsest first."""
    multiple: int
    """Both sides of the input are multiples of this."""
    widths: tuple[int, ...] = resunetpp.WIDTHS
    """Those that it is known by."""
    encoder: str | None = None
    """What the names of its encoder's layers begin with, where the encoder can start from a published ResNet."""


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
}
"""By the name that `polypstream train --model` takes."""
