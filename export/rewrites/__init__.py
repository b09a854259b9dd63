"""Exact rewrites of an ONNX graph: the same function at lower cost."""
