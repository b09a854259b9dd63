"""Export of a Keras model to ONNX in float32, FP16 or INT8. Calling the module calls `polypstream.api.export`."""

from polypstream.callable_module import make_callable

make_callable(__name__)
