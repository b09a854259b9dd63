"""Find the polyps in one image, and write a copy with their outlines: python predict_image.py frame.jpg marked.png"""

import sys

import cv2

import polypstream as ps

result = ps.load_model().predict(sys.argv[1])
for polyp in result.polyps:
    print(f"box {polyp.box}, {polyp.area:.0f} pixels, score {polyp.score:.2f}")
cv2.imwrite(sys.argv[2], cv2.cvtColor(result.plot(), cv2.COLOR_RGB2BGR))
