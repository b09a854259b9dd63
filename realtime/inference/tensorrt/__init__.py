"""TensorRT and TensorRT-RTX: engines built from ONNX, cached, and run on an NVIDIA GPU.

Nothing here imports `tensorrt`, `tensorrt_rtx` or `cuda` before it is used, and nothing calls TensorRT's runtime before
CUDA has been asked for a device: without a driver, it would crash the process.
"""
