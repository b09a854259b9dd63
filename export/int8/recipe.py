"""INT8 recipe: channel equalization, rounding by output error, search for ranges and float32 layers, bias correction.

It needs images but no masks. Candidates are compared by their mean absolute difference in probability from the float32
model on a few of the images.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from polypstream.export.config import Engine
from polypstream.export.graph import Images, Lookup, float_tensors, macs, observed, probabilities, with_shapes
from polypstream.export.int8.equalization import channel_peaks, equalize
from polypstream.export.int8.quantize import correct_bias, quantizable_nodes, quantize
from polypstream.export.int8.rounding import rounded_weights
from polypstream.export.rewrites.cpu_kernels import rewrite_for_cpu

SHARES = (0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
"""Candidate shares of the images whose activations are not clipped by the 8-bit range.

An unbounded gate makes the activations of some images a thousand times larger; steps wide enough for those are too
coarse for all others.
"""
TRIAL_IMAGES = 16
EARLY_COSTS = (0.0, 0.03, 0.06, 0.11)
"""Candidate shares of all multiplications in the first layers, which stay in float32 together. Their errors pass
through the whole network, and on a CPU they take the time of memory access more than of arithmetic."""
LEFT_OUT = (1, 2, 4, 8, 16)
"""How many of the most sensitive other nodes are tried in float32 together."""
NEXT_TO_THE_BEST = 1.25
"""Tolerance for using fewer float32 nodes: the error may be this many times the smallest one. Float32 nodes cost time,
and a gain on the few trial images may not carry over to others."""
LARGEST_COST_LEFT_OUT = 0.05
"""Largest share of all multiplications in the sensitive nodes that stay in float32, besides the first layers."""

_MAY_BE_LEFT_OUT: Mapping[Engine, tuple[str, ...]] = {
    "onnxruntime": ("Mul", "GlobalAveragePool"),
    "tensorrt": ("Conv",),
}
"""Operators of the sensitive nodes. ONNX Runtime quantizes a float32 convolution between 8-bit tensors itself, with one
scale for all channels (`WeightBiasQuantization`, since 1.21), which is worse than the quantized one of the file."""


@dataclass(frozen=True, kw_only=True)
class Int8:
    """The INT8 model and the choices made for it."""

    model: ModelProto
    share: float
    """Share of the calibration images whose activations are not clipped."""
    left_out: tuple[str, ...]
    """Nodes that stay in float32."""
    difference: float
    """Mean absolute difference in probability from the float32 model, before the bias correction."""


def int8_from_fp32(model: ModelProto, images: Images, *, engine: Engine, threshold: float) -> Int8:
    """Quantize an optimized float32 model for an engine. The same model and images produce the same bytes.

    Args:
        model: Float32 model of static shape, as `optimize` returns it.
        images: Calibration images, uint8 RGB (n, height, width, 3), of the model's size.
        engine: The runtime that the file is made for.
        threshold: The model's threshold, at which the logit bias is corrected.

    Returns:
        The INT8 model and the choices made for it.
    """
    trials = _Trials(with_shapes(model), images, engine)
    share = min(SHARES, key=lambda share: trials.difference(share))
    early = min(map(trials.first_layers, EARLY_COSTS), key=lambda names: trials.difference(share, names))
    whole = trials.difference(share, early)
    others = [name for name in trials.candidates() if name not in early]
    alone = {name: trials.difference(share, [*early, name]) for name in others}
    helpful = trials.affordable(sorted((name for name in alone if alone[name] < whole), key=lambda name: alone[name]))
    choices = [[*early, *helpful[:count]] for count in (0, *LEFT_OUT) if count <= len(helpful)]
    differences = [trials.difference(share, names) for names in choices]
    left_out = choices[next(i for i, off in enumerate(differences) if off <= NEXT_TO_THE_BEST * min(differences))]
    made = trials.made(share, left_out)
    return Int8(
        model=correct_bias(made, probabilities(made, images), probabilities(model, images), threshold=threshold),
        share=share,
        left_out=tuple(left_out),
        difference=trials.difference(share, left_out),
    )


class _Trials:
    """INT8 versions of one model, with the error of each."""

    def __init__(self, model: ModelProto, images: Images, engine: Engine) -> None:
        self._engine = engine
        form = equalize(model, channel_peaks(model, images))
        self._form = rewrite_for_cpu(form) if engine == "onnxruntime" else form
        self._weights = rounded_weights(self._form, images)
        self._lowest, self._highest = _extremes(self._form, images)
        self._few = images[np.linspace(0, len(images) - 1, min(TRIAL_IMAGES, len(images))).astype(int)]
        self._exact = probabilities(self._form, self._few)

    def made(self, share: float, left_out: Collection[str] = ()) -> ModelProto:
        """Quantize with ranges that cover this share of the images; the given nodes stay in float32."""
        lowest = np.minimum(np.quantile(self._lowest, 1 - share, axis=0), 0)
        highest = np.maximum(np.quantile(self._highest, share, axis=0), 0)
        ends = zip(lowest.tolist(), highest.tolist(), strict=True)
        ranges = dict(zip(float_tensors(self._form), ends, strict=True))
        return quantize(self._form, ranges, engine=self._engine, weights=self._weights, keep_fp32=left_out)

    def difference(self, share: float, left_out: Collection[str] = ()) -> float:
        """Return the mean absolute difference in probability of such a model."""
        return float(np.abs(probabilities(self.made(share, left_out), self._few) - self._exact).mean())

    def first_layers(self, share: float) -> list[str]:
        """Return the layers up to the last one whose multiplications, with those of all it depends on, fit this share.

        Returned are the names of quantizable nodes, in graph order; none for a share of 0.
        """
        look = Lookup(self._form.graph)
        cost = {node.name: macs(node, look) for node in self._form.graph.node}
        needed: dict[str, frozenset[str]] = {}
        for node in self._form.graph.node:
            before = (look.producer(name) for name in node.input)
            needed[node.name] = frozenset({node.name}).union(
                *(needed[each.name] for each in before if each is not None)
            )
        total = {name: sum(cost[each] for each in names) for name, names in needed.items()}
        fitting = [name for name in total if total[name] <= share * sum(cost.values())]
        last = max(reversed(fitting), key=lambda name: total[name], default=None)
        if last is None or share == 0:
            return []
        return [name for name in quantizable_nodes(self._form, engine=self._engine) if name in needed[last]]

    def candidates(self) -> list[str]:
        """Return the nodes that may be left in float32."""
        operators = {node.name: node.op_type for node in self._form.graph.node}
        names, able = quantizable_nodes(self._form, engine=self._engine), _MAY_BE_LEFT_OUT[self._engine]
        return self._within_budget([name for name in names if operators[name] in able], together=False)

    def affordable(self, names: Sequence[str]) -> list[str]:
        """Return the names, in order, whose multiplications fit the budget together."""
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


def _extremes(model: ModelProto, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the smallest and the largest value of every float tensor on each image: two arrays (images, tensors)."""
    tensors = float_tensors(model)
    rows = [
        [(values[name].min(), values[name].max()) for name in tensors]
        for values in observed(model, images, tensors=tensors)
    ]
    found = np.array(rows, np.float32)
    return found[..., 0], found[..., 1]
