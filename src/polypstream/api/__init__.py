"""The functions of the public API, which users import from `polypstream`.

Each combines the parts that the command of the same name uses. Heavy modules are imported by the function that needs
them.
"""

from polypstream.api.annotation import annotate, annotate_batch
from polypstream.api.feed import live
from polypstream.api.models import load_model, open_video
from polypstream.api.training import evaluate, evaluate_records, evaluate_video, export, train

__all__ = [
    "annotate",
    "annotate_batch",
    "evaluate",
    "evaluate_records",
    "evaluate_video",
    "export",
    "live",
    "load_model",
    "open_video",
    "train",
]
