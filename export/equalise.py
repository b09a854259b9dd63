"""Exact change of scale, per channel: a map's channels are multiplied by powers of two, what takes it divides by them.

A factor goes into the weights that make the channel and, inverted, into those that take it; a power of two leaves
every digit as it was. 8 bits have one step for a whole map: channels of one size lose the least. Feature maps are NCHW.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, which takes
pairs of convolutions; here sums, pooling, gates and upsampling lie in between.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from polypstream.export.lookup import Array, Lookup, add_constant, attribute, replace_node, with_shapes, without_unused
from polypstream.export.session import Pictures, float_tensors, observed

Peaks = Mapping[str, NDArray[np.float64]]
"""The largest |value| per channel of each map: (channels,)."""

_SCALED = ("Add", "Mul", "Relu")
_PER_CHANNEL = ("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Slice")
_SMALLEST, _LARGEST = -12, 3
"""Exponents of the factors: a channel that is almost silent is not made loud, as others may hear it."""


def channel_peaks(model: ModelProto, pictures: Pictures, *, share: float = 0.75) -> Peaks:
    """The largest |value| per channel of every map on each picture, and of those the quantile `share` over pictures."""
    look = Lookup(model.graph)
    names = [name for name in float_tensors(model) if len(look.shape(name)) == 4]
    found: dict[str, list[Array]] = {name: [] for name in names}
    for values in observed(model, pictures, tensors=names):
        for name, value in values.items():
            found[name].append(np.abs(value).max(axis=(0, 2, 3)))
    return {name: np.quantile(np.stack(rows).astype(np.float64), share, axis=0) for name, rows in found.items()}


def equalised(model: ModelProto, peaks: Peaks) -> ModelProto:
    """The same function, each map's channels brought to one size as far as the graph allows, given its own peaks."""
    model, peaks = with_shapes(model), dict(peaks)
    for name in [node.output[0] for node in model.graph.node if node.op_type in _SCALED]:
        factors = _factors(peaks[name]) if name in peaks else np.ones(1)
        change = _Change(Lookup(model.graph))
        if np.any(factors != 1) and change.made_by(name, factors) and change.taken_from(name, factors):
            change.apply()
            peaks |= {touched: peaks[touched] * by for touched, by in change.touched.items()}
    return without_unused(model)


def _factors(peak: NDArray[np.float64]) -> NDArray[np.float64]:
    """The powers of two that bring each channel near the median of those that are ever anything but 0."""
    alive = peak > 0
    factors = np.ones_like(peak)
    if alive.any():
        exponents = np.round(np.log2(np.median(peak[alive]) / peak[alive]))
        factors[alive] = 2.0 ** exponents.clip(_SMALLEST, _LARGEST)
    return factors


@dataclass
class _Change:
    """The edits that scale one map: collected first, so that nothing is changed where one of them is not possible."""

    look: Lookup
    edits: list[tuple[NodeProto, str, Array]] = field(default_factory=list)
    touched: dict[str, Array] = field(default_factory=dict)

    def made_by(self, name: str, factors: Array) -> bool:
        """Scale the channels of a tensor at their origin; false where the graph does not allow it."""
        node = self.look.producer(name)
        if node is None:
            return False
        self.touched[name] = factors
        if _is_affine(node, self.look):
            self.edits.append((node, "output", factors))
            return True
        if node.op_type in ("Relu", "MaxPool", "Resize", "Slice"):
            return self._made_inside(node.input[0], factors)
        if node.op_type == "DepthToSpace" and attribute(node, "mode", b"DCR") == b"DCR":
            return self._made_inside(node.input[0], np.tile(factors, attribute(node, "blocksize") ** 2))
        if node.op_type == "Add":
            return all(self._made_inside(part, factors) for part in node.input)
        return node.op_type == "Mul" and self._scale_one_factor(node, factors)

    def _made_inside(self, name: str, factors: Array) -> bool:
        return self.look.sole_user(name) is not None and self.made_by(name, factors)

    def _scale_one_factor(self, node: NodeProto, factors: Array) -> bool:
        """Scale a product by scaling one of its two maps; of a map and a gate per channel, the gate."""
        maps = [name for name in node.input if max(self.look.shape(name)[2:], default=1) > 1]
        if len(maps) == 2:
            return self._made_inside(maps[0], factors)
        self.edits.append((node, "gate", factors))
        return len(maps) == 1

    def taken_from(self, name: str, factors: Array) -> bool:
        """Undo the scale in everything that takes the tensor; false where the graph does not allow it."""
        users = self.look.users(name)
        return bool(users) and self.look.is_inner(name) and all(self._undone_in(user, name, factors) for user in users)

    def _undone_in(self, user: NodeProto, name: str, factors: Array) -> bool:
        if _is_affine(user, self.look):
            self.edits.append((user, "input", factors))
            return bool(user.input[0] == name)
        is_product = user.op_type == "Mul" and list(user.input).count(name) == 1
        if not is_product and (user.op_type not in _PER_CHANNEL or 1 in attribute(user, "axes", [])):
            return False
        self.touched[user.output[0]] = factors
        return self.taken_from(user.output[0], factors)

    def apply(self) -> None:
        """Write the edits into the weights."""
        for node, side, factors in sorted(self.edits, key=lambda edit: edit[1] == "gate"):  # that one moves nodes
            if side == "gate":
                _scale_gate(node, factors, self.look)
            else:
                _scale_parameters(node, side, factors, self.look)


def _is_affine(node: NodeProto, look: Lookup) -> bool:
    if not all(look.is_constant(name) for name in node.input[1:]):
        return False
    return node.op_type == "BatchNormalization" or (node.op_type == "Conv" and attribute(node, "group", 1) == 1)


def _scale_parameters(node: NodeProto, side: str, factors: Array, look: Lookup) -> None:
    values = [look.value(name).astype(np.float64) for name in node.input[1:]]
    if side == "output":
        varying = 2 if node.op_type == "BatchNormalization" else len(values)  # its mean and variance are the input's
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
    before = look.producer(scaled)  # there since the gate was scaled for another map
    if before is not None:
        factors = factors * look.value(before.input[1]).reshape(-1)
    constant = add_constant(look.graph, f"{node.name}.factors", factors.astype(np.float32).reshape(1, -1, 1, 1))
    if before is not None:
        before.input[1] = constant
        return
    inserted = helper.make_node("Mul", [node.input[gate], constant], [scaled], f"{node.name}.gate")
    node.input[gate] = scaled
    replace_node(look.graph, node, [inserted, node])
