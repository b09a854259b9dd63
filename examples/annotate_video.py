"""Outline every polyp in a recording: python annotate_video.py recording.mp4 annotated"""

import sys

import polypstream as ps

report = ps.annotate(sys.argv[1], sys.argv[2])
print(f"{report.frames_with_polyp} of {report.frames} frames show a polyp; see {report.overlay}")
