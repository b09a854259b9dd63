"""`polypstream build`: an ONNX model in, a TensorRT engine for this GPU or for named ones out."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from polypstream.realtime.tensorrt.builder import BuildConfig
    from polypstream.realtime.tensorrt.engine_file import EngineFile


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("build")(build)


def build(
    model: Annotated[Path, typer.Argument(help="ONNX model, as polypstream export writes it.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for the engine.  [default: the cache that polypstream annotate looks in]"
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Compute capabilities to build for without a GPU, as in sm86,sm89; TensorRT-RTX only.  "
            "[default: this machine's GPU]"
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures at once at most; counts where the model leaves its batch open.")
    ] = 8,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, help="GPU memory one layer may use, in MiB.  [default: all there is]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build the TensorRT engine of MODEL.

    Writes <name>-<key>.engine and, beside it, a JSON file that says what the engine is and where it runs. The engine
    computes in the precision of the model: export it as fp16 or int8 for a faster one. polypstream annotate builds
    what it needs by itself; use this to build ahead, for another machine, or to see the numbers.
    """
    from polypstream.realtime.tensorrt.builder import BuildConfig
    from polypstream.realtime.tensorrt.cache import default_folder

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
    from polypstream.realtime.tensorrt.builder import build_engine

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
    shapes = f"uint8 {contract.colour_order}, {key.width}x{key.height}"
    if key.batch.largest > 1:
        shapes += f", {key.batch.smallest} to {key.batch.largest} at once"
    rows = {
        "model": f"{contract.name} {contract.version}",
        "precision": key.precision,
        "input": shapes,
        "built with": f"{'TensorRT-RTX' if key.flavour == 'rtx' else 'TensorRT'} {key.tensorrt_version}",
        "runs on": str(key.target),
        "size": f"{sidecar.engine_bytes / 1e6:.1f} MB, from {sidecar.onnx_bytes / 1e6:.1f} MB of ONNX",
        "time": f"{sidecar.build_seconds:.1f} s",
    }
    table = Table(title=escape(str(engine.path)), show_header=False)
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table
