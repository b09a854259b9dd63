"""Opening the model that a subcommand was given, with the user told about the backend."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from polypstream.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from polypstream.realtime.segmenter import Segmenter


def opened(path: Path | None, backend: str, *, threads: int | None = None) -> "Segmenter":
    """Open a model, or the package's own; a backend that fails to start is replaced, with a line that says so."""
    from polypstream.models import default_model
    from polypstream.realtime.segmenter import AUTO, segmenter_from_onnx

    model = path or default_model
    console = Console(stderr=True)
    try:
        segmenter = segmenter_from_onnx(model, backend=backend, threads=threads)
    except (BackendError, MissingExtraError) as error:
        if backend == AUTO:
            raise
        console.print(
            f"[yellow]warning:[/yellow] backend {backend} does not start ({escape(str(error))}); another one is used",
            highlight=False,
            soft_wrap=True,
        )
        segmenter = segmenter_from_onnx(model, threads=threads)
    for notice in segmenter.notices:
        console.print(escape(notice), highlight=False, soft_wrap=True)
    return segmenter
