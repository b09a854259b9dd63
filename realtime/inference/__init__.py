"""Inference backends, one module per runtime, and their selection."""
