"""A narrowed model brought to mark as much as the exact one: 8 bits push all logits a little one way."""

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from polypstream.errors import ModelError
from polypstream.export.lookup import Lookup, with_shapes

LARGEST_SHIFT = 0.5
"""Of a logit, either way. A model that needs more has lost more than its level."""
_THRESHOLD = 0.5
_SURE = 1e-7
_AFTER = ("Transpose", "Reshape", "Identity")


def levelled(model: ModelProto, answers: NDArray[np.float32], exact: NDArray[np.float32]) -> ModelProto:
    """The model with its logits shifted by one constant, so that as many pixels reach 0.5 as do in `exact`.

    `answers` is what the model says of some pictures, `exact` what it should say, both float32 in [0, 1].
    """
    shift = shift_between(answers, exact)
    copy: ModelProto = ModelProto.FromString(model.SerializeToString())
    sigmoid = _last_sigmoid(copy)
    level = numpy_helper.from_array(np.array(shift, np.float32), f"{sigmoid.name}.level")
    add = helper.make_node("Add", [sigmoid.input[0], level.name], [f"{sigmoid.name}.levelled"], f"{sigmoid.name}/Level")
    place = list(copy.graph.node).index(sigmoid)
    sigmoid.input[0] = add.output[0]
    copy.graph.node.insert(place, add)
    copy.graph.initializer.append(level)
    return with_shapes(copy)


def shift_between(answers: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """By how much the answers' logits are to be raised."""
    wanted = int((exact >= _THRESHOLD).sum())
    if not 0 < wanted < answers.size:
        return 0.0
    sure = np.clip(answers.astype(np.float64).ravel(), _SURE, 1 - _SURE)
    logits = np.log(sure / (1 - sure))
    least = np.partition(logits, logits.size - wanted)[logits.size - wanted]
    return float(np.clip(-least, -LARGEST_SHIFT, LARGEST_SHIFT))


def _last_sigmoid(model: ModelProto) -> NodeProto:
    """The node that makes probabilities of logits."""
    look = Lookup(model.graph)
    node = look.producer(model.graph.output[0].name)
    while node is not None and node.op_type in _AFTER:
        node = look.producer(node.input[0])
    if node is None or node.op_type != "Sigmoid":
        raise ModelError("the graph does not end in a Sigmoid; export a model of this package")
    return node
