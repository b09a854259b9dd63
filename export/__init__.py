"""Export: from a Keras model to ONNX."""
