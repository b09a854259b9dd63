"""The path a picture takes: capture, inference, markers, output."""
