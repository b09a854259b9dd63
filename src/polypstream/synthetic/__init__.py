"""A synthetic colonoscopy with known polyps: the embedded demo, and material for tests and benchmarks."""

from polypstream.synthetic.clip import SyntheticClip, SyntheticFrame, frame_at, frames_of
from polypstream.synthetic.counter import counter_from_rgb
from polypstream.synthetic.encode import write_clip

__all__ = ["SyntheticClip", "SyntheticFrame", "counter_from_rgb", "frame_at", "frames_of", "write_clip"]
