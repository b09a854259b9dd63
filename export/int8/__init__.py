"""INT8 quantization: calibration, equalization, GPTQ weight rounding, bias correction."""
