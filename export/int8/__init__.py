"""INT8 quantization: calibration, equalization, weight rounding, bias correction."""
