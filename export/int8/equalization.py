"""Cross-layer equalization: scales channels by powers of two and compensates in the layers that read them.

A factor is multiplied into the weights that produce a channel and divided out of the weights that read it; powers of
two do not change any digits. 8 bits provide one step size for a whole map, so channels of similar magnitude lose the
least. Feature maps are NCHW.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, which covers
pairs of convolutions; here, sums, residual streams, pooling, gates and upsampling may lie between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from polypstream.export.graph import (
    Array,
    Images,
    Lookup,
    add_constant,
    attribute,
    float_tensors,
    observed,
    replace_node,
    with_shapes,
    without_unused,
)

Peaks = Mapping[str, NDArray[np.float64]]
"""The largest |value| per channel of each map: (channels,)."""

Channels = NDArray[np.intp]
"""For each channel of a map, the channel of the starting map whose factor it shares: (channels,)."""
Ties = list[tuple[str, Channels]]
"""Tensors that must be scaled together with another one."""

_SCALED = ("Add", "Mul", "Relu")
_PER_CHANNEL = ("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Slice")
_SMALLEST, _LARGEST = -12, 3
"""Exponents of the factors. Nearly silent channels are not amplified further, as others may read them."""


def channel_peaks(model: ModelProto, images: Images, *, share: float = 0.75) -> Peaks:
    """Return the largest |value| per channel of every map: the quantile `share` over the images."""
    look = Lookup(model.graph)
    names = [name for name in float_tensors(model) if len(look.shape(name)) == 4]
    found: dict[str, list[Array]] = {name: [] for name in names}
    for values in observed(model, images, tensors=names):
        for name, value in values.items():
            found[name].append(np.abs(value).max(axis=(0, 2, 3)))
    return {name: np.quantile(np.stack(rows).astype(np.float64), share, axis=0) for name, rows in found.items()}


def equalize(model: ModelProto, peaks: Peaks) -> ModelProto:
    """Scale the channels of each map to similar magnitudes, as far as the graph allows; the function stays the same.

    Maps that must share their factors, such as those of a residual stream, get common ones.

    Args:
        model: Float32 model of static shape; it is not changed.
        peaks: Largest |value| per channel of its maps, from `channel_peaks`.

    Returns:
        The equalized copy.
    """
    model, peaks, done = with_shapes(model), dict(peaks), set[str]()
    for name in [node.output[0] for node in model.graph.node if node.op_type in _SCALED]:
        change = _Change(Lookup(model.graph))
        if name not in peaks or name in done or not change.reaches(name, len(peaks[name])):
            continue
        factors = _factors(change.peak(peaks))
        change.apply(factors)
        done |= change.alike
        peaks |= {touched: peaks[touched] * factors[channels] for touched, channels in change.touched.items()}
    return without_unused(model)


def _factors(peak: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the powers of two that bring each channel close to the median of the nonzero ones."""
    alive = peak > 0
    factors = np.ones_like(peak)
    if alive.any():
        exponents = np.round(np.log2(np.median(peak[alive]) / peak[alive]))
        factors[alive] = 2.0 ** exponents.clip(_SMALLEST, _LARGEST)
    return factors


@dataclass
class _Change:
    """Everything that must be scaled together with one map: sums with it, pooled versions, products.

    Edits are collected first and applied only if all of them are possible.
    """

    look: Lookup
    edits: list[tuple[NodeProto, str, Channels]] = field(default_factory=list)
    touched: dict[str, Channels] = field(default_factory=dict)
    alike: set[str] = field(default_factory=set)
    """Touched maps that are not the result of a product; they share the factors of the starting map."""
    _carrier: dict[str, str] = field(default_factory=dict)
    """For each product, the one of its two inputs that is scaled."""

    def reaches(self, name: str, channels: int) -> bool:
        """Find everything that must be scaled together with a map; False if the graph does not allow it."""
        pending: list[tuple[str, Channels, bool]] = [(name, np.arange(channels), True)]
        while pending:
            name, of, alike = pending.pop()
            if name in self.touched:
                if not np.array_equal(self.touched[name], of):
                    return False
                continue
            self.touched[name] = of
            self.alike |= {name} if alike else set()
            node, users = self.look.producer(name), self.look.users(name)
            if node is None or not users or not self.look.is_inner(name):
                return False
            for other in (node, *users):
                ties = self._made(node, of) if other is node else self._taken(other, name, of)
                if ties is None:
                    return False
                pending += [(tied, whose, alike and other.op_type != "Mul") for tied, whose in ties]
        return True

    def _made(self, node: NodeProto, of: Channels) -> Ties | None:
        """Scale the output of a node: returns the tensors tied to it, or None if that is impossible."""
        if _is_affine(node, self.look):
            self.edits.append((node, "output", of))
            return []
        if node.op_type == "Mul":
            return self._made_by_product(node, of)
        if node.op_type == "DepthToSpace" and attribute(node, "mode", b"DCR") == b"DCR":
            return [(node.input[0], np.tile(of, attribute(node, "blocksize") ** 2))]
        return self._tied(node, of)

    def _made_by_product(self, node: NodeProto, of: Channels) -> Ties | None:
        """Scale a product by scaling one of its two maps; for a map and a per-channel gate, the gate."""
        if node.output[0] in self._carrier:
            return []
        maps = [name for name in node.input if max(self.look.shape(name)[2:], default=1) > 1]
        if len(maps) == 2:
            self._carrier[node.output[0]] = maps[0]
            return [(maps[0], of)]
        self._carrier[node.output[0]] = ""
        self.edits.append((node, "gate", of))
        return [] if len(maps) == 1 else None

    def _taken(self, user: NodeProto, name: str, of: Channels) -> Ties | None:
        """Undo the scale in a node that reads a tensor, or return the tensors tied to it; None if both fail."""
        if _is_affine(user, self.look):
            self.edits.append((user, "input", of))
            return [] if user.input[0] == name else None
        if user.op_type == "Mul":
            is_scaled_by_it = self._carrier.setdefault(user.output[0], name) == name
            return [(user.output[0], of)] if is_scaled_by_it and list(user.input).count(name) == 1 else None
        if user.op_type == "DepthToSpace":  # already scaled if the search reached it from its output
            return [] if user.output[0] in self.touched else None
        return self._tied(user, of)

    def _tied(self, node: NodeProto, of: Channels) -> Ties | None:
        """Return all inputs and outputs of a node that processes channels separately and has no scale of its own."""
        names = [*(node.input if node.op_type == "Add" else node.input[:1]), node.output[0]]
        same = all(self.look.shape(name)[1:2] == (len(of),) for name in names)
        return [(name, of) for name in names] if same and node.op_type in ("Add", *_PER_CHANNEL) else None

    def peak(self, peaks: Peaks) -> NDArray[np.float64]:
        """Per channel, the root of the sum of squares of its relative peaks in all maps to be quantized."""
        squares = np.zeros(1 + max(int(of.max()) for of in self.touched.values()))
        for name in self.alike & peaks.keys():
            is_held = {user.op_type for user in self.look.users(name)} != {"Relu"}
            if is_held and peaks[name].max() > 0:
                np.add.at(squares, self.touched[name], (peaks[name] / peaks[name].max()) ** 2)
        return np.sqrt(squares)

    def apply(self, factors: NDArray[np.float64]) -> None:
        """Write the edits into the weights."""
        for node, side, of in sorted(self.edits, key=lambda edit: edit[1] == "gate"):  # last, as gates move nodes
            if side == "gate":
                _scale_gate(node, factors[of], self.look)
            else:
                _scale_parameters(node, side, factors[of], self.look)


def _is_affine(node: NodeProto, look: Lookup) -> bool:
    if not all(look.is_constant(name) for name in node.input[1:]):
        return False
    return node.op_type == "BatchNormalization" or (node.op_type == "Conv" and attribute(node, "group", 1) == 1)


def _scale_parameters(node: NodeProto, side: str, factors: Array, look: Lookup) -> None:
    values = [look.value(name).astype(np.float64) for name in node.input[1:]]
    if side == "output":
        varying = 2 if node.op_type == "BatchNormalization" else len(values)  # mean and variance belong to the input
        values[:varying] = [value * factors.reshape(-1, *[1] * (value.ndim - 1)) for value in values[:varying]]
    elif node.op_type == "BatchNormalization":
        values[0], values[2] = values[0] / factors, values[2] * factors
    else:
        values[0] = values[0] / factors.reshape(1, -1, 1, 1)
    node.input[1:] = [
        add_constant(look.graph, name, value.astype(np.float32))
        for name, value in zip(node.input[1:], values, strict=True)
    ]


def _scale_gate(node: NodeProto, factors: Array, look: Lookup) -> None:
    gate = next(index for index, name in enumerate(node.input) if max(look.shape(name)[2:], default=1) == 1)
    scaled = f"{node.output[0]}.gate"
    before = look.producer(scaled)  # exists if the gate was already scaled for another map
    if before is not None:
        factors = factors * look.value(before.input[1]).reshape(-1)
    constant = add_constant(look.graph, f"{node.name}.factors", factors.astype(np.float32).reshape(1, -1, 1, 1))
    if before is not None:
        before.input[1] = constant
        return
    inserted = helper.make_node("Mul", [node.input[gate], constant], [scaled], f"{node.name}.gate")
    node.input[gate] = scaled
    replace_node(look.graph, node, [inserted, node])
