"""Realtime processing: video input, inference, outlines, output."""
