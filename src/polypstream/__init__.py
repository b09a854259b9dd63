"""Outlines every polyp in colonoscopy video, live and on recordings. Research software, not a medical device.

    import polypstream as ps

    model = ps.load_model()
    for polyp in model.predict("frame.jpg").polyps:
        print(polyp.box, polyp.score)

The names in `__all__` are the public API; every other module is internal and may change in any release. They are
loaded on first use, so that the import itself is instant and needs no optional package.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polypstream.api import (
        annotate,
        annotate_batch,
        evaluate,
        evaluate_records,
        evaluate_video,
        export,
        live,
        load_model,
        open_video,
        train,
    )
    from polypstream.errors import (
        BackendError,
        ConfigError,
        ModelError,
        OutputError,
        PolypstreamError,
        SourceError,
    )
    from polypstream.realtime.inference.model import Model
    from polypstream.realtime.inference.result import Result
    from polypstream.realtime.outlines.contours import Polyp

    __version__: str

__all__ = [
    "BackendError",
    "ConfigError",
    "Model",
    "ModelError",
    "OutputError",
    "Polyp",
    "PolypstreamError",
    "Result",
    "SourceError",
    "__version__",
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

_FOLDERS = ("export", "train")
"""Modules that are functions too; see `polypstream.callable_module`."""
_HOMES = {
    "Model": "polypstream.realtime.inference.model",
    "Polyp": "polypstream.realtime.outlines.contours",
    "Result": "polypstream.realtime.inference.result",
    **{name: "polypstream.errors" for name in __all__ if name.endswith("Error")},
    **dict.fromkeys(("annotate", "annotate_batch", "live", "load_model", "open_video"), "polypstream.api"),
    **dict.fromkeys(("evaluate", "evaluate_records", "evaluate_video"), "polypstream.api"),
}

if not TYPE_CHECKING:  # or a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Load a public name on first use."""
        if name == "__version__":
            from importlib.metadata import version

            value = version("polypstream")
        elif name in _FOLDERS:
            value = import_module(f"polypstream.{name}")
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'polypstream' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
