"""TensorRT and TensorRT-RTX: engines built from ONNX, kept in a cache, and run on an NVIDIA GPU.

Nothing here imports `tensorrt`, `tensorrt_rtx` or `cuda` before it is used, and nothing touches TensorRT's runtime
before CUDA was asked for a device: without a driver it would crash the process.
"""
