"""The INT8 recipe: scales evened out, weights rounded for their answers, ranges and sensitive nodes found by measuring
on pictures, 8 bits, levelled.

It needs no masks. How far a trial is off is the mean |difference| in probability to the float32 model, over a few of
the pictures. About a hundred models are tried, one after the other.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from polypstream.export.config import Engine
from polypstream.export.cost import macs
from polypstream.export.cpu_form import in_cpu_form
from polypstream.export.equalise import channel_peaks, equalised
from polypstream.export.levelling import levelled
from polypstream.export.lookup import Lookup, with_shapes
from polypstream.export.quantise import quantisable_nodes, quantised
from polypstream.export.rounding import rounded_weights
from polypstream.export.session import Pictures, float_tensors, observed, probabilities

SHARES = (0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
"""Of the pictures, whose activations are to fit in the 8 bits whole; those of the others are clipped.

An unbounded gate makes some pictures' activations a thousand times larger: steps wide enough for them serve no other.
"""
TRIAL_PICTURES = 16
LEFT_OUT = (1, 2, 4, 8, 16)
"""How many of the most sensitive nodes are tried together in float32."""
NEXT_TO_THE_BEST = 1.25
"""Fewer nodes in float32 are chosen where the model is then off by at most this many times what it could be: they cost
time, and what the few pictures of a trial gain by them others may not."""
LARGEST_COST_LEFT_OUT = 0.05
"""The share of all multiplications that the nodes left in float32 may hold."""

_MAY_BE_LEFT_OUT = ("Conv", "Mul", "GlobalAveragePool")


@dataclass(frozen=True, kw_only=True)
class Int8:
    """The 8-bit model and what was found out on the way."""

    model: ModelProto
    share: float
    """Of the pictures that fit in the 8 bits whole."""
    left_out: tuple[str, ...]
    """Nodes that stay in float32."""
    difference: float
    """Mean |difference| in probability to the float32 model, before its logits were levelled."""


def int8_from_fp32(model: ModelProto, pictures: Pictures, *, engine: Engine) -> Int8:
    """The INT8 model of an optimised float32 one, for an engine. The same model and pictures give the same bytes."""
    trials = _Trials(with_shapes(model), pictures, engine)
    share = min(SHARES, key=lambda share: trials.difference(share))
    whole = trials.difference(share)
    alone = {name: trials.difference(share, [name]) for name in trials.candidates()}
    helpful = trials.affordable(sorted((name for name in alone if alone[name] < whole), key=lambda name: alone[name]))
    choices = [helpful[:count] for count in (0, *LEFT_OUT) if count <= len(helpful)]
    differences = [trials.difference(share, names) for names in choices]
    left_out = choices[next(i for i, off in enumerate(differences) if off <= NEXT_TO_THE_BEST * min(differences))]
    made = trials.made(share, left_out)
    return Int8(
        model=levelled(made, probabilities(made, pictures), probabilities(model, pictures)),
        share=share,
        left_out=tuple(left_out),
        difference=trials.difference(share, left_out),
    )


class _Trials:
    """8-bit versions of one model, and how far each is off."""

    def __init__(self, model: ModelProto, pictures: Pictures, engine: Engine) -> None:
        self._engine = engine
        form = equalised(model, channel_peaks(model, pictures))
        self._form = in_cpu_form(form) if engine == "onnxruntime" else form
        self._weights = rounded_weights(self._form, pictures)
        self._lowest, self._highest = _extremes(self._form, pictures)
        self._few = pictures[np.linspace(0, len(pictures) - 1, min(TRIAL_PICTURES, len(pictures))).astype(int)]
        self._exact = probabilities(self._form, self._few)

    def made(self, share: float, left_out: Collection[str] = ()) -> ModelProto:
        """The model in 8 bits that hold this share of the pictures whole, some nodes left out."""
        lowest = np.minimum(np.quantile(self._lowest, 1 - share, axis=0), 0)
        highest = np.maximum(np.quantile(self._highest, share, axis=0), 0)
        ends = zip(lowest.tolist(), highest.tolist(), strict=True)
        ranges = dict(zip(float_tensors(self._form), ends, strict=True))
        return quantised(self._form, ranges, engine=self._engine, weights=self._weights, keep_fp32=left_out)

    def difference(self, share: float, left_out: Collection[str] = ()) -> float:
        """Mean |difference| in probability of such a model."""
        return float(np.abs(probabilities(self.made(share, left_out), self._few) - self._exact).mean())

    def candidates(self) -> list[str]:
        """The nodes that may be left out at all."""
        operators = {node.name: node.op_type for node in self._form.graph.node}
        names = quantisable_nodes(self._form, engine=self._engine)
        return self._within_budget([name for name in names if operators[name] in _MAY_BE_LEFT_OUT], together=False)

    def affordable(self, names: Sequence[str]) -> list[str]:
        """Those of the names, in order, whose multiplications together stay small."""
        return self._within_budget(names, together=True)

    def _within_budget(self, names: Sequence[str], *, together: bool) -> list[str]:
        look = Lookup(self._form.graph)
        cost = {node.name: macs(node, look) for node in self._form.graph.node}
        budget, spent, kept = LARGEST_COST_LEFT_OUT * sum(cost.values()), 0, []
        for name in names:
            if spent + cost[name] <= budget:
                kept.append(name)
                spent += cost[name] if together else 0
        return kept


def _extremes(model: ModelProto, pictures: Pictures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest and the largest value of every float tensor on each picture: two of (pictures, tensors)."""
    tensors = float_tensors(model)
    rows = [
        [(values[name].min(), values[name].max()) for name in tensors]
        for values in observed(model, pictures, tensors=tensors)
    ]
    found = np.array(rows, np.float32)
    return found[..., 0], found[..., 1]
