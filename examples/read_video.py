"""Print when polyps are visible in a recording: python read_video.py recording.mp4"""

import sys

import polypstream as ps

with ps.load_model() as model, ps.open_video(sys.argv[1]) as video:
    for frame, result in model.predict_stream(video):
        if result.polyps:
            print(f"{frame.pts_s:.2f} s: {len(result.polyps)}, {result.mask.mean():.1%} of the frame")
