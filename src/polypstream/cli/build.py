"""`polypstream build`: builds a TensorRT engine for this GPU or for named ones."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from polypstream.cli.options import JsonOption

if TYPE_CHECKING:
    from polypstream.realtime.inference.tensorrt.builder import BuildConfig
    from polypstream.realtime.inference.tensorrt.engine_file import EngineFile


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("build")(build)


def build(
    model: Annotated[Path, typer.Argument(help="ONNX model written by polypstream export.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the engine.", show_default="the cache of the tensorrt backend"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Compute capabilities to build for without a GPU, such as sm86,sm89; TensorRT-RTX only.",
            show_default="this machine's GPU",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest batch that the engine takes.",
            show_default="1, or 8 if the model's batch size is dynamic",
        ),
    ] = None,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, help="GPU memory in MiB that one layer may use.", show_default="all of it")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build the TensorRT engine of MODEL.

    Writes <name>-<key>.engine and a JSON file with model, TensorRT version and GPU architecture. The engine has the
    precision of the model; export fp16 or int8 for a faster one. The tensorrt backend builds its engine automatically;
    use this command to build ahead of time or for another machine.
    """
    from polypstream.realtime.inference.tensorrt.builder import BuildConfig
    from polypstream.realtime.inference.tensorrt.cache import default_folder

    config = BuildConfig(
        batch=batch,
        workspace_bytes=None if workspace_mib is None else workspace_mib << 20,
        targets=tuple(one.strip().lower() for one in target.split(",")) if target is not None else (),
    )
    engine = _built_with_progress(model, output or default_folder(), config)
    if as_json:
        print(json.dumps(_plain(engine), indent=2))
    else:
        Console().print(_table(engine))


def _built_with_progress(model: Path, folder: Path, config: "BuildConfig") -> "EngineFile":
    from polypstream.realtime.inference.tensorrt.builder import build_engine

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(escape(model.name), total=1.0)
        return build_engine(
            model,
            folder=folder,
            config=config,
            on_progress=lambda now: progress.update(task, completed=now.fraction, description=escape(now.phase)),
        )


def _plain(engine: "EngineFile") -> dict[str, object]:
    return {"engine": str(engine.path), **json.loads(engine.sidecar.to_json())}


def _table(engine: "EngineFile") -> Table:
    sidecar, key, contract = engine.sidecar, engine.sidecar.key, engine.sidecar.contract
    batches = f"1 to {key.largest_batch}" if key.largest_batch > 1 else "1"
    rows = {
        "model": f"{contract.name} {contract.version}",
        "precision": key.precision,
        "input": f"uint8 {contract.color_order}, {key.width}x{key.height}, {batches} per batch",
        "built with": f"{'TensorRT-RTX' if key.flavor == 'rtx' else 'TensorRT'} {key.tensorrt_version}",
        "runs on": str(key.target),
        "size": f"{sidecar.engine_bytes / 1e6:.1f} MB, from {sidecar.onnx_bytes / 1e6:.1f} MB of ONNX",
        "time": f"{sidecar.build_seconds:.1f} s",
    }
    table = Table(title=escape(str(engine.path)), show_header=False)
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table
