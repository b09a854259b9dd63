"""Options that several subcommands share, the layout of `--help`, and opening the model that the options name.

Conventions: one sentence documents an option, an upper-case `metavar` its value; a default that is not a constant is
named with `show_default`; `--model`, `--backend`, `--threshold`, `--output` and `--json` mean the same everywhere."""

import inspect
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from polypstream.errors import ConfigError
from polypstream.realtime.annotate.formats import ExportFormat

if TYPE_CHECKING:
    from polypstream.realtime.inference.segmenter import Segmenter


class BackendName(StrEnum):
    """Values of `--backend`: the keys of `polypstream.realtime.inference` `BACKENDS`, `auto` and `triton`.

    Listed here because help and shell completion must not import an inference runtime.
    """

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    ONNXRUNTIME_CUDA = "onnxruntime-cuda"
    ONNXRUNTIME_TENSORRT = "onnxruntime-tensorrt"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"
    TENSORRT = "tensorrt"
    TRITON = "triton"


BackendOption = Annotated[
    BackendName,
    typer.Option(
        "--backend",
        metavar="NAME",
        help=f"Inference backend: {', '.join(BackendName)}. 'auto' measures those that work here and uses the fastest; "
        "polypstream doctor lists them.",
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="ONNX model file.", show_default="the one in the package"),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="HOST:PORT/MODEL",
        help="Address of the model on a Triton server (gRPC, usually port 8001), for --backend triton; MODEL may be "
        "left out if the server has only one.",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        metavar="PROBABILITY",
        min=0.001,
        max=0.999,
        help="Probability from which a pixel counts as polyp.",
        show_default="the model's",
    ),
]
MaskValuesOption = Annotated[
    str,
    typer.Option(
        "--mask-values",
        metavar="LIST",
        help="Gray levels or colors that mean polyp in the masks, such as 1,2 or #ff0000,#00ff00.",
        show_default="detected automatically",
    ),
]
FormatOption = Annotated[
    list[ExportFormat] | None,
    typer.Option(
        "--format",
        "-f",
        metavar="NAME",
        help=f"Format to export to; repeatable: {', '.join(ExportFormat)}. The JSON lines are always written.",
        show_default=False,
    ),
]
AccurateOption = Annotated[
    bool,
    typer.Option(
        "--accurate", help="Average four inferences per image, mirrored and at two scales: four times the time."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Command(TyperCommand):
    """A subcommand whose help is reflowed and shows no Python type names."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options["help"] = _reflowed(options.get("help"))
        super().__init__(*args, **options)

    def get_params(self, ctx: Any) -> Any:
        """Parameters of the command, with value names for its help."""
        return _described(super().get_params(ctx))


class Group(TyperGroup):
    """The command that holds the subcommands; its help follows the same rules."""

    def get_params(self, ctx: Any) -> Any:
        """Parameters of the command, with value names for its help."""
        return _described(super().get_params(ctx))


def _described(params: Any) -> Any:
    for param in params:
        if isinstance(param, TyperArgument) and param.metavar is None and param.name is not None:
            param.metavar = param.name.upper()
        if isinstance(param, TyperArgument | TyperOption) and hasattr(param, "display_type"):  # from Typer 0.26 on
            for method in ("display_type", "display_type_rich"):
                setattr(param, method, _ValueHint(param))
    return params


_VALUES = {
    **dict.fromkeys(("<str>", "<list[str]>"), "TEXT"),
    **dict.fromkeys(("<path>", "<Path>", "<file>", "<directory>", "<list[Path]>"), "PATH"),
    **dict.fromkeys(("<int>", "<int range>", "<float>", "<float range>"), "NUMBER"),
}
"""Typer's name of a type and the name in the help; choices are shown as entered."""


class _ValueHint:
    """Replaces the method with which Typer describes the value of a parameter."""

    def __init__(self, param: TyperArgument | TyperOption) -> None:
        self._param = param

    def __call__(self, ctx: Any) -> str:
        if isinstance(self._param, TyperArgument) or self._param.is_flag:
            return ""
        if self._param.metavar is not None:
            return self._param.metavar
        described: str = type(self._param).display_type(self._param, ctx)
        return _VALUES.get(described, described.strip("<>"))


def _reflowed(text: str | None) -> str | None:
    """Join the lines of each paragraph, so that the terminal wraps them."""
    if text is None:
        return None
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def open_segmenter(
    path: Path | None,
    backend: str,
    *,
    url: str | None = None,
    threads: int | None = None,
    accurate: bool = False,
    is_live: bool = False,
    batches: bool = False,
) -> "Segmenter":
    """Open a model, None for the one in the package; raises `BackendError` if a named backend does not work here.

    With `is_live`, the outage of a server is an error at once: it is displayed, and the next frame tries again. With
    `batches`, engines are built for several images per inference.
    """
    from polypstream.realtime.inference.segmenter import PATIENCE_S, segmenter_from_onnx

    segmenter = segmenter_from_onnx(
        path,
        backend=backend,
        threads=threads,
        accurate=accurate,
        url=url,
        patience_s=0 if is_live else PATIENCE_S,
        batches=batches,
    )
    console = Console(stderr=True)
    for notice in segmenter.notices:
        console.print(escape(notice), highlight=False, soft_wrap=True)
    return segmenter


def secret_in(file: Path) -> str:
    """The first line of a file with a secret; raises `ConfigError` where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(
            f"{file} cannot be read ({reason}); give a text file with the secret in its first line"
        ) from None
