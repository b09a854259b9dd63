"""Export: from a Keras model to ONNX, in float32, half precision or 8 bits."""
