"""What a run of a model costs, in multiply-accumulates. The shapes must be static."""

import numpy as np
from onnx import ModelProto, NodeProto

from polypstream.export.lookup import Lookup, attribute, with_shapes


def gmac(model: ModelProto) -> float:
    """Thousand million multiply-accumulates of the convolutions and matrix products of one run."""
    look = Lookup(with_shapes(model).graph)
    return sum(macs(node, look) for node in look.graph.node) / 1e9


def macs(node: NodeProto, look: Lookup) -> int:
    """Multiply-accumulates of one node; 0 where it is neither a convolution nor a matrix product."""
    if node.op_type == "Conv":  # weights (out, in / group, rows, columns), once for every pixel that comes out
        return int(np.prod(look.shape(node.input[1])) * np.prod(look.shape(node.output[0])[2:]))
    if node.op_type == "ConvTranspose":  # weights (in, out / group, rows, columns), once for every pixel that goes in
        return int(np.prod(look.shape(node.input[1])) * np.prod(look.shape(node.input[0])[2:]))
    if node.op_type == "MatMul":
        return int(np.prod(look.shape(node.output[0])) * look.shape(node.input[0])[-1])
    if node.op_type == "Gemm":
        inner = look.shape(node.input[0])[0 if attribute(node, "transA", 0) else 1]
        return int(np.prod(look.shape(node.output[0])) * inner)
    return 0
