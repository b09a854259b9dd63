"""Read an export with the libraries of its target tool, and print the result as JSON.

Run by tests with a Python of its own, because these libraries bring an OpenCV that replaces the one of the package:
`read_export.py coco|cvat|label-studio PATH`. The output maps frame indices to lists of [track, x, y, x, y, …].
"""

import json
import sys
from pathlib import Path

Seen = dict[int, list[list[float]]]


def read_datumaro(path: Path, name: str) -> Seen:
    from datumaro import AnnotationType, Dataset

    seen: Seen = {}
    for item in Dataset.import_from(str(path), "coco_instances" if name == "coco" else name):
        index = item.attributes["frame"] if name == "cvat" else item.attributes["id"] - 1
        for each in item.annotations:
            if each.type == AnnotationType.polygon and not each.attributes.get("outside"):
                seen.setdefault(int(index), []).append([int(each.attributes["track_id"]), *each.points])
    return seen


def read_label_studio(path: Path) -> Seen:
    from label_studio_sdk._extensions.label_studio_tools.postprocessing.video import extract_key_frames
    from label_studio_sdk.label_interface import LabelInterface

    (task,) = json.loads(path.read_text(encoding="utf-8"))
    config = path.with_name(f"{path.stem}_config.xml").read_text(encoding="utf-8")
    interface = LabelInterface(config)
    interface.validate()
    assert interface.is_video_object_tracking()
    (prediction,) = task["predictions"]
    assert interface.validate_prediction(prediction, return_errors=True) == []
    seen: Seen = {}
    for region in extract_key_frames(prediction["result"]):
        boxes = {each["frame"]: each for each in region["value"]["sequence"]}
        for frame, box in boxes.items():
            corners = [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
            seen.setdefault(frame - 1, []).append([int(region["id"].removeprefix("polyp-")), *corners])
    return seen


if __name__ == "__main__":
    kind, place = sys.argv[1], Path(sys.argv[2])
    found = read_label_studio(place) if kind == "label-studio" else read_datumaro(place, kind)
    print(json.dumps(found))
