"""Keras to ONNX: traces a network with its normalisation through tf2onnx and cleans the graph.

tf2onnx's own `from_keras` does not know Keras 3; tracing a TensorFlow function with a static signature works.
"""

import keras
import onnx
import tensorflow as tf
import tf2onnx

from polypstream.errors import ModelError
from polypstream.export.graph import cleaned
from polypstream.export.network import convolutional_network

OPSET = 17
"""tf2onnx writes up to 18. 17 has all that is needed (per-channel Q/DQ came with 13) and is read by ONNX Runtime from
1.12 on, by OpenVINO and by the parsers of TensorRT 10 and 11; 18 changes Resize and brings nothing used here."""

INPUT = "image"
OUTPUT = "probability"


def onnx_from_keras(network: keras.Model) -> onnx.ModelProto:
    """The ONNX model of a float32 network of static size (`float32_network` makes one).

    Input `image`: uint8 RGB (1, height, width, 3), divided by 255 inside the graph.
    Output `probability`: float32 (1, height, width, 1).
    Raises `ModelError` where the network holds an operation that ONNX has no word for.
    """
    model = traced(convolutional_network(network))
    foreign = {node.op_type for node in model.graph.node if not onnx.defs.has(node.op_type, node.domain)}
    if foreign:
        raise ModelError(f"ONNX has no {', '.join(sorted(foreign))}, which the Keras model uses; replace those layers")
    return cleaned(model, layers=[layer.name for layer in network.layers])


def traced(network: keras.Model) -> onnx.ModelProto:
    """What tf2onnx makes of the network and its normalisation, before any cleaning."""
    picture = tf.TensorSpec(network.input_shape, tf.uint8, name=INPUT)

    @tf.function(input_signature=[picture], autograph=False)  # type: ignore[untyped-decorator, unused-ignore]
    def segment(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: network(tf.cast(image, tf.float32) / 255.0, training=False)}

    model: onnx.ModelProto
    model, _ = tf2onnx.convert.from_function(segment, input_signature=[picture], opset=OPSET)
    return model
