"""Follow polyps in a live feed: python watch_live.py rtsp://camera/1 (or /dev/video0, or a file)"""

import sys

import polypstream as ps

with ps.live(sys.argv[1], operating_point="specific") as feed:
    for shown in feed:
        boxes = [tuple(map(round, polyp.box)) for polyp in shown.polyps]
        print(shown.image.shape, shown.status.light.value, boxes)
