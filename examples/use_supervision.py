"""Outline polyps with Roboflow's supervision: python use_supervision.py recording.mp4 marked.mp4"""

import sys

import supervision as sv

import polypstream as ps

annotator, model = sv.PolygonAnnotator(), ps.load_model()
with sv.VideoSink(sys.argv[2], sv.VideoInfo.from_video_path(sys.argv[1])) as sink:
    for frame, result in model.predict_stream(sys.argv[1]):
        sink.write_frame(annotator.annotate(frame.image[..., ::-1].copy(), result.to_supervision()))
