"""Synthetic colonoscopy with known polyps: the built-in demo, and data for tests and benchmarks."""

from polypstream.synthetic.clip import SyntheticClip, SyntheticFrame, frame_at, frames_of, write_clip
from polypstream.synthetic.counter import counter_from_rgb

__all__ = ["SyntheticClip", "SyntheticFrame", "counter_from_rgb", "frame_at", "frames_of", "write_clip"]
